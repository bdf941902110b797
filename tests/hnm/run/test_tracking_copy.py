"""A database that another process holds, or that is on a shared disk, hangs no training; nothing is lost."""

import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hnm.engine.ranks import single_world
from hnm.run.journal import Journal
from hnm.run.tracking import ID_FILE, Tracker, TrackingConfig
from hnm.run.tracking_copy import Aside, DatabaseCopy

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Let another process hold the lock of a SQLite file during the block."""
    command = [sys.executable, "-c", HOLD, str(database)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        yield
    finally:
        holder.kill()
        holder.communicate()


def losses(folder: Path) -> list[tuple[int, float]]:
    """Return what the folder's database has of the metric x/loss."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    history = client.get_metric_history((folder / ID_FILE).read_text().strip(), "x/loss")
    return sorted((metric.step, metric.value) for metric in history)


def tracked(folder: Path, copy: DatabaseCopy | None) -> tuple[Tracker, Journal]:
    tracker = Tracker(folder, TrackingConfig(), {"seed": 1}, copy)
    return tracker, Journal(folder, single_world(), tracker.metrics_written)


def test_a_lock_that_is_never_let_go_does_not_hang_a_training(
    tmp_path: Path, tracking_database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(tracking_database, tmp_path / "mlflow.db")
    tracker, journal = tracked(tmp_path, None)
    monkeypatch.setattr("hnm.run.tracking.FLUSH_AT", 1)
    monkeypatch.setattr("hnm.run.tracking.RETRY_EVERY_S", 0.0)
    monkeypatch.setattr("hnm.run.tracking.WAIT_S", 0.5)
    with locked(tmp_path / "mlflow.db"), caplog.at_level(logging.WARNING, "hnm"):
        begin = time.monotonic()
        for step in range(20):
            journal.metrics("x", step, loss=step / 2)
        tracker.finish("KILLED", [])
        assert time.monotonic() - begin < 15  # MLflow asks for the lock for 20 s
    (record,) = [record for record in caplog.records if record.name == "hnm"]
    assert "no answer within" in record.getMessage()
    assert tracker.aside._thread is not None
    tracker.aside._thread.join(60)  # the lock is free: what hung comes to its end
    tracker.finish("FINISHED", [])
    assert losses(tmp_path) == [(step, step / 2) for step in range(20)]


def test_on_a_shared_disk_the_database_is_only_copied(tmp_path: Path, tracking_database: Path) -> None:
    shutil.copy(tracking_database, tmp_path / "mlflow.db")
    (tmp_path / "note.txt").write_text("note")
    with locked(tmp_path / "mlflow.db"):  # nobody asks for that lock
        for attempt, status in enumerate(("KILLED", "FINISHED")):
            copy = DatabaseCopy(tmp_path)
            tracker, journal = tracked(tmp_path, copy)
            journal.metrics("x", attempt, loss=0.5)
            tracker.set_tags({"hnm.attempts": str(attempt)})
            assert not (attempt == 0 and (tmp_path / ID_FILE).exists())  # until the end MLflow is left alone
            tracker.finish(status, [(tmp_path / "note.txt", None)], {"hnm.attempts": str(attempt + 1)})
            place = copy.open().parent
            tracker.close()
            assert not place.exists()
    assert losses(tmp_path) == [(0, 0.5), (1, 0.5)]
    run = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(tracker.run_id)
    assert (run.info.status, run.data.tags["hnm.attempts"]) == ("FINISHED", "2")
    assert run.info.artifact_uri == f"{tmp_path.as_uri()}/mlartifacts/{tracker.run_id}/artifacts"
    assert len(list(tmp_path.glob("mlartifacts/*/artifacts/note.txt"))) == 1
    assert not list(tmp_path.glob(".*"))


def test_what_did_not_come_home_is_not_noted_as_sent(tmp_path: Path, tracking_database: Path) -> None:
    copy = DatabaseCopy(tmp_path)
    shutil.copy(tracking_database, tmp_path / "mlflow.db")
    tracker, journal = tracked(tmp_path, copy)
    journal.metrics("x", 0, loss=0.5)
    copy.open()
    (tmp_path / "mlflow.db").unlink()
    (tmp_path / "mlflow.db").mkdir()  # it cannot be replaced
    tracker.finish("FAILED", [])
    assert not list(tmp_path.glob("mlflow_*"))
    (tmp_path / "mlflow.db").rmdir()
    tracker.finish("FINISHED", [])
    assert losses(tmp_path) == [(0, 0.5)]


def test_what_hangs_is_waited_for_once() -> None:
    aside, go_on = Aside(), threading.Event()
    with pytest.raises(TimeoutError, match="no answer within 0 s"):
        aside.run(lambda: [None][go_on.wait(60) - 1], 0.05)
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer yet"):
        aside.run(lambda: None, 60)
    assert time.monotonic() - begin < 10
    go_on.set()
    assert aside._thread is not None
    aside._thread.join(60)
    with pytest.raises(ZeroDivisionError):
        aside.run(lambda: [1 // 0][0], 60)
