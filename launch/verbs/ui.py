"""`hnm ui`: MLflow's pages for one run, served on this machine only.

own mlflow.db ──▶ mlflow server on 127.0.0.1 until Ctrl-C      config.yaml ──tracking.uri──▶ asked first, unless it is one's own

A server that a stranger's run names would learn that somebody looks at the run, from where, and the login that MLflow's
environment variables hold; a database elsewhere would be opened, and made where there is none.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType

from hnm.config import read_config
from hnm.private import own_settings
from hnm.report.page import REPORT_FILE
from hnm.run.tracking_run import SERVER_SETTINGS, follow_move, tracking_uri
from shards.errors import InputError
from shards.secrets import SecretText

LOOPBACK, USUAL_PORT = "127.0.0.1", 5000
STOP_S = 10.0
AS_TRAINING = "?workflowType=machine_learning"  # else MLflow 3 shows a page of traces and prompts, which we have none of
CLIENT_SETTINGS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}  # a server may be away


def serve(run: Path, port: int, is_trusted: bool, ask: Callable[[str], bool]) -> int:
    """Print the address of a run's page and serve it until the process is stopped.

    Args:
        run: the run directory.
        port: on this machine; 0: the usual one, or a free one.
        is_trusted: call the server, or open the database, that the run's config.yaml names without asking.
        ask: puts a question to the user.

    Raises:
        InputError: nothing is tracked there, the port is taken, or the run's database is not to be opened.
    """
    given = _given(run)
    question = f"{run / 'config.yaml'} names {given}. Call it? Only if you know whose it is"
    is_allowed = given is None or is_trusted or _is_own(given, run) or ask(question)
    if given is None:
        follow_move(run)
    uri = tracking_uri(run, given)
    if uri.startswith(("http://", "https://")):
        page = _page(str(given).rstrip("/"), uri, run) if is_allowed else str(given)
        print(f"{run} is tracked by the server at {page}{'' if is_allowed else ' (not called: --yes finds its own page there)'}")
        return 0
    if not is_allowed:
        raise InputError(f"{run / 'config.yaml'}: names the database {given}: not opened. If you know whose it is, add --yes")
    port = _free_port(port)
    print(f"starting MLflow on {given or uri} ...", flush=True)
    page = _page(f"http://{LOOPBACK}:{port}", uri, run)
    print(f"{page}\nonly this machine reaches it; Ctrl-C ends it", flush=True)
    for line in _besides(page, run):
        print(line, flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1"]
    # not in the command line, which `ps` shows to everybody: a database's address may hold a password
    settings = {**os.environ, **SERVER_SETTINGS, "MLFLOW_BACKEND_STORE_URI": uri}
    # a session of its own: Ctrl-C reaches us alone, and we end the server with all its workers
    server = subprocess.Popen(command, env=settings, start_new_session=True)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(server)
        signal.signal(signal.SIGTERM, previous)


def _given(run: Path) -> SecretText | None:
    """Return what the run's configuration names; None: its own mlflow.db."""
    given = read_config(run / "config.yaml").tracking.uri if (run / "config.yaml").is_file() else None
    if given is None and not (run / "mlflow.db").is_file():
        raise InputError(
            f"{run}: nothing is tracked here (no mlflow.db). Name a run directory; with tracking.enabled=false there is only "
            "events.jsonl: hnm report draws it"
        )
    return given


def _is_own(given: SecretText, run: Path) -> bool:
    """Does the user's own configuration or MLflow's variable name the same, or is it beside the run, as of a cross-validation?"""
    if any(str(given) == tracking_uri(folder, None) and (folder / "mlflow.db").is_file() for folder in run.resolve().parents[:2]):
        return True
    own = (own_settings().get("tracking") or {}).get("uri"), os.environ.get("MLFLOW_TRACKING_URI")
    return str(given).rstrip("/") in [str(SecretText(uri)).rstrip("/") for uri in own if uri]


def _free_port(port: int) -> int:
    """Return the port to serve on: the one asked for, else the usual one, else a free one.

    Raises:
        InputError: the port that was asked for is taken.
    """
    for candidate in (port,) if port else (USUAL_PORT, 0):
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, candidate))
                return int(probe.getsockname()[1])
            except OSError:
                continue
    raise InputError(f"--port {port}: taken on this machine. Give another, or leave --port out")


def _page(address: str, uri: str, run: Path) -> str:
    """Return the address of the run's own page; the front page where its experiment cannot be found out."""
    id_file = run / "mlflow_run_id.txt"
    if not id_file.is_file():
        return address
    for name, value in {**SERVER_SETTINGS, **CLIENT_SETTINGS}.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    run_id = id_file.read_text(encoding="utf-8").strip()
    try:
        experiment = MlflowClient(uri).get_run(run_id).info.experiment_id
    except MlflowException:
        return address
    return f"{address}/#/experiments/{experiment}/runs/{run_id}{AS_TRAINING}"


def _besides(page: str, run: Path) -> Iterator[str]:
    """Yield what else there is to open: all runs of the experiment, and the page for people who do not train networks."""
    if "/runs/" in page:
        yield f"all runs, to compare: {page.rpartition('/runs/')[0]}/runs{AS_TRAINING}"
    if (report := run / REPORT_FILE).is_file():
        yield f"for a pathologist: {report}, which needs no server"


def _stop(server: "subprocess.Popen[bytes]") -> None:
    """End the server and the workers that it has started."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, kind)  # its own group: see start_new_session
        try:
            server.wait(STOP_S)
            return
        except subprocess.TimeoutExpired:
            continue


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
