"""`hnm ui` serves a run on loopback with a real `mlflow server`; the same server then tracks runs by URI."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hnm.engine.ranks import single_world
from hnm.run.journal import Journal
from hnm.run.tracking import Tracker, TrackingConfig
from hnm.run.tracking_run import files_of_run
from launch.verbs.ui import serve
from shards.errors import InputError
from tests.paths import ROOT


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def ui(
    tmp_path_factory: pytest.TempPathFactory, evaluated_run: Path, tracking_database: Path
) -> Iterator[tuple[Path, str]]:
    """A tracked run directory and the address of its page, while `hnm ui` runs; the one server that the tests start."""
    run = tmp_path_factory.mktemp("ui") / "run"
    shutil.copytree(evaluated_run, run)
    shutil.copy(tracking_database, run)
    tracker = Tracker(run, TrackingConfig(), {})
    Journal(run, single_world(), tracker.metrics_written).metrics("round", 9, validation_auc=0.75)
    tracker.finish("FINISHED", files_of_run(run))
    command = [sys.executable, "-P", "-m", "launch.cli", "ui", str(run), "--port", str(free_port())]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(3)]
        assert "Ctrl-C ends it" in lines[2], lines
        log = [lines[2]]
        while "Application startup complete" not in log[-1]:  # what mlflow server itself says
            log.append(process.stdout.readline())
            assert log[-1], log  # it has ended
        yield run, lines[1].strip()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(90)
    assert process.returncode == 0
    with pytest.raises(OSError, match="refused"):  # the server and its workers have ended with it
        urllib.request.urlopen(lines[1].split("/#/")[0], timeout=5)


def listening_on(port: int) -> set[str]:
    """Return the local addresses, as the kernel writes them, on which this machine listens at a port."""
    tables = [path for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if path.exists()]
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    places = [row[1].split(":") for row in rows if row[3] == "0A"]
    return {address for address, at in places if int(at, 16) == port}


@pytest.mark.slow
def test_the_page_is_served_on_loopback_and_knows_the_run(ui: tuple[Path, str]) -> None:
    run, page = ui
    address, fragment = page.split("/#/")
    assert address.startswith("http://127.0.0.1:")
    assert listening_on(int(address.rsplit(":", 1)[1])) == {"0100007F"}  # 127.0.0.1, and nothing else
    run_id = (run / "mlflow_run_id.txt").read_text().strip()
    experiment = MlflowClient(f"sqlite:///{run / 'mlflow.db'}").get_run(run_id).info.experiment_id
    assert fragment == f"experiments/{experiment}/runs/{run_id}?workflowType=machine_learning"
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert b"<title>MLflow</title>" in answer.read()
    with urllib.request.urlopen(f"{address}/api/2.0/mlflow/runs/get?run_id={run_id}", timeout=30) as answer:
        told = json.load(answer)["run"]["data"]
    assert {"key": "round/validation_auc", "value": 0.75} in [
        {name: metric[name] for name in ("key", "value")} for metric in told["metrics"]
    ]
    with urllib.request.urlopen(f"{address}/get-artifact?path=report.html&run_uuid={run_id}", timeout=30) as answer:
        assert answer.read() == (run / "report.html").read_bytes()
    with urllib.request.urlopen(f"{address}/get-artifact?path=model/MODEL.md&run_uuid={run_id}", timeout=30) as answer:
        assert b"not for diagnosis" in answer.read()


@pytest.mark.slow
def test_a_server_tracks_by_uri_and_a_lost_id_is_found_by_tag(
    ui: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = ui[1].split("/#/")[0]
    config = TrackingConfig(uri=address, experiment="by server")
    run_ids = []
    for attempt in (1, 2):
        (tmp_path / "mlflow_run_id.txt").unlink(missing_ok=True)
        tracker = Tracker(tmp_path, config, {"mining": {"neg_ratio": 0.05}})
        journal = Journal(tmp_path, single_world(), tracker.metrics_written)
        journal.metrics("finetune", attempt, negative_loss=3.0 / attempt)
        journal.metrics("round", attempt, validation_auc=0.8)
        tracker.finish("FINISHED", [])
        run_ids.append(tracker.run_id)
    assert run_ids[0] == run_ids[1] != ""
    client = MlflowClient(address)
    tracked = client.get_run(run_ids[0])
    assert tracked.data.params == {"mining.neg_ratio": "0.05"}
    history = client.get_metric_history(run_ids[0], "finetune/negative_loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 3.0), (2, 1.5)]
    (tmp_path / "config.yaml").write_text(f"tracking: {{uri: '{address}'}}\n")
    assert serve(tmp_path, 0, True, never) == 0  # somebody else's server: only linked
    assert f"{address}/#/experiments/" in capsys.readouterr().out


def never(question: str) -> bool:
    raise AssertionError(question)


def test_a_server_that_a_strangers_run_names_is_called_only_after_a_yes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def no(question: str) -> bool:
        asked.append(question)
        return False

    (tmp_path / "mlflow_run_id.txt").write_text("abc")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        (tmp_path / "config.yaml").write_text(f"tracking: {{uri: '{address}'}}\n")
        assert serve(tmp_path, 0, False, no) == 0
        with pytest.raises(TimeoutError):
            server.accept()
        assert f"tracked by the server at {address} (not called: --yes finds its own page there)" in capsys.readouterr().out
        assert f"config.yaml names {address}. Call it?" in asked[0]
        server.close()  # whose own configuration names it is not asked; the server is away
        (tmp_path / "own.yaml").write_text(f"tracking: {{uri: '{address}/'}}\n")
        monkeypatch.setenv("HNM_CONFIG", str(tmp_path / "own.yaml"))
        assert serve(tmp_path, 0, False, never) == 0
    (tmp_path / "config.yaml").write_text(f"tracking: {{uri: 'sqlite:///{tmp_path}/new.db'}}\n")
    with pytest.raises(InputError, match="not opened"):
        serve(tmp_path, 0, False, no)
    assert not (tmp_path / "new.db").exists()


def test_what_cannot_be_served_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing is tracked here \(no mlflow.db\)"):
        serve(tmp_path, 0, False, never)
    (tmp_path / "mlflow.db").write_bytes(b"")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=f"--port {taken.getsockname()[1]}: taken"):
            serve(tmp_path, taken.getsockname()[1], False, never)
