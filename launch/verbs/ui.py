"""`hnm ui`: MLflow's pages for one run, served on this machine only.

config.yaml ──tracking.uri──▶ a server: print where the run is        else: mlflow server on 127.0.0.1 until Ctrl-C
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO

from hnm.config import read_config
from hnm.run.tracking_run import SERVER_SETTINGS, follow_move, tracking_uri
from shards.errors import InputError

LOOPBACK, USUAL_PORT = "127.0.0.1", 5000
START_S = 180.0  # a busy machine takes half a minute to import MLflow's server
STOP_S = 10.0


def serve(run: Path, port: int) -> int:
    """Print the address of a run's page and serve it until the process is stopped.

    Raises:
        InputError: nothing is tracked there, the port is taken, or the server does not start.
    """
    uri = _uri_of(run)
    if uri.startswith(("http://", "https://")):
        print(f"{run} is tracked by the server at {_page(uri.rstrip('/'), run)}")
        return 0
    address = f"http://{LOOPBACK}:{_free_port(port)}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", LOOPBACK]
    command += ["--port", address.rsplit(":", 1)[1], "--workers", "1"]
    print(f"starting MLflow on {uri} ...", flush=True)
    with tempfile.TemporaryFile() as output:
        # a session of its own: Ctrl-C reaches us alone, and we end the server with all its workers
        server = subprocess.Popen(
            command,
            env={**os.environ, **SERVER_SETTINGS},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        previous = signal.signal(signal.SIGTERM, _interrupt)
        try:
            _wait_until_up(server, address, output)
            print(f"{_page(address, run)}\nonly this machine reaches it; Ctrl-C ends it", flush=True)
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


def _wait_until_up(server: "subprocess.Popen[bytes]", address: str, output: IO[bytes]) -> None:
    """Wait until the server answers.

    Raises:
        InputError: it has ended, or says nothing for three minutes.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            output.seek(0)
            lines = output.read().decode(errors="replace").strip().splitlines()
            raise InputError("mlflow server ended:\n" + "\n".join(lines[-12:]))
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise InputError(f"mlflow server did not answer at {address} within {START_S:.0f} s. Try again on an idle machine")


def _page(address: str, run: Path) -> str:
    """Return the address of the run's own page; the server's front page if it does not know the run."""
    id_file = run / "mlflow_run_id.txt"
    if not id_file.is_file():
        return address
    run_id = id_file.read_text(encoding="utf-8").strip()
    try:
        with urllib.request.urlopen(f"{address}/api/2.0/mlflow/runs/get?run_id={run_id}", timeout=10) as answer:
            experiment = json.load(answer)["run"]["info"]["experiment_id"]
    except (OSError, ValueError, KeyError):
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
