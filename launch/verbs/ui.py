"""`hnm ui`: MLflow's pages for one run, served on this machine only.

config.yaml ──tracking.uri──▶ a server: print where the run is        else: mlflow server on 127.0.0.1 until Ctrl-C
"""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

from hnm.config import read_config
from hnm.run.tracking_run import SERVER_SETTINGS, follow_move, tracking_uri
from shards.errors import InputError

LOOPBACK, USUAL_PORT = "127.0.0.1", 5000
STOP_S = 10.0
CLIENT_SETTINGS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}  # a server may be away


def serve(run: Path, port: int) -> int:
    """Print the address of a run's page and serve it until the process is stopped.

    Raises:
        InputError: nothing is tracked there, or the port is taken.
    """
    uri = _uri_of(run)
    if uri.startswith(("http://", "https://")):
        print(f"{run} is tracked by the server at {_page(uri.rstrip('/'), uri, run)}")
        return 0
    port = _free_port(port)
    print(f"starting MLflow on {uri} ...", flush=True)
    page = _page(f"http://{LOOPBACK}:{port}", uri, run)
    print(f"{page}\nonly this machine reaches it; Ctrl-C ends it", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", LOOPBACK]
    command += ["--port", str(port), "--workers", "1"]
    # a session of its own: Ctrl-C reaches us alone, and we end the server with all its workers
    server = subprocess.Popen(command, env={**os.environ, **SERVER_SETTINGS}, start_new_session=True)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(server)
        signal.signal(signal.SIGTERM, previous)


def _uri_of(run: Path) -> str:
    given = read_config(run / "config.yaml").tracking.uri if (run / "config.yaml").is_file() else None
    if given is None and not (run / "mlflow.db").is_file():
        raise InputError(
            f"{run}: nothing is tracked here (no mlflow.db). Name a run directory; with tracking.enabled=false there is only "
            "events.jsonl: hnm report draws it"
        )
    if given is None:
        follow_move(run)
    return tracking_uri(run, given)


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
    return f"{address}/#/experiments/{experiment}/runs/{run_id}"


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
