"""MLflow: a real SQLite run that is found again, and failures that training outlives."""

import json
import logging
import shutil
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hnm.engine.ranks import single_world
from hnm.run.journal import Journal
from hnm.run.tracking import Tracker, TrackingConfig
from launch.verbs import train as verbs
from tests.disks import small_disk
from tests.tiny import TINY, results_of


def tracked(folder: Path, tracker: Tracker) -> Journal:
    """Return a journal whose metrics the tracker follows."""
    return Journal(folder, single_world(), tracker.metrics_written)


def points(folder: Path, uri: str, name: str) -> list[tuple[int, float]]:
    """Return (step, value) of every point that MLflow has of a metric, in the order of the steps."""
    run_id = (folder / "mlflow_run_id.txt").read_text().strip()
    history = MlflowClient(uri).get_metric_history(run_id, name)
    return sorted((metric.step, metric.value) for metric in history)


def test_a_run_is_made_filled_and_found_again(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("attempt\n")
    for attempt in (0, 1):
        params = {"seed": 3, "mining": {"neg_ratio": 0.05 + attempt, "ties": "exact"}, "long": "x" * 9000}
        tracker = Tracker(tmp_path, TrackingConfig(), params)
        tracked(tmp_path, tracker).metrics("round", attempt, auc=0.5 + attempt / 4)
        tracker.finish("FINISHED" if attempt else "FAILED", [(tmp_path / "config.yaml", None)])
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "hnm"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == (tmp_path / "mlflow_run_id.txt").read_text().strip() == tracker.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params["mining.neg_ratio"] == "0.05"  # MLflow's parameters cannot change: the first attempt's stay
    assert run.data.params["mining.ties"] == "exact"
    assert len(run.data.params["long"]) == 6000
    assert points(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", "round/auc") == [(0, 0.5), (1, 0.75)]
    artifact = client.download_artifacts(run.info.run_id, "config.yaml", str(tmp_path))
    assert Path(artifact).read_text() == "attempt\n"


def test_many_metrics_all_arrive_once_however_often_they_are_sent(tmp_path: Path, finished_tracking_db: str) -> None:
    config = TrackingConfig(uri=finished_tracking_db, experiment="many")
    tracker = Tracker(tmp_path, config, {})
    journal = tracked(tmp_path, tracker)
    for step in range(450):
        journal.metrics("x", step, loss=step / 2)
    tracker.finish("FINISHED", [])
    (tmp_path / "mlflow_sent.json").unlink()  # a process that died after it had sent and before it had noted that
    with open(tmp_path / "events.jsonl", "a") as file:
        file.write('{"time": 1.5, "event": "metr')  # and that was writing a line
    tracker = Tracker(tmp_path, config, {})
    tracked(tmp_path, tracker).metrics("x", 450, loss=225.0)
    tracker.finish("FINISHED", [])
    assert points(tmp_path, finished_tracking_db, "x/loss") == [(step, step / 2) for step in range(451)]


@pytest.fixture(scope="module")
def finished_tracking_db(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of a database that runs of several folders share."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'shared.db'}"


def test_a_database_that_was_deleted_comes_back_whole(tmp_path: Path, tracking_database: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'own.db'}"
    for value in (1.0, 0.5):
        shutil.copy(tracking_database, tmp_path / "own.db")  # the second time: one without the run
        tracker = Tracker(tmp_path, TrackingConfig(uri=uri), {"seed": 1})
        tracked(tmp_path, tracker).metrics("x", int(value < 1), loss=value)
        tracker.finish("FINISHED", [])
    assert points(tmp_path, uri, "x/loss") == [(0, 1.0), (1, 0.5)]
    assert MlflowClient(uri).get_run(tracker.run_id).data.params == {"seed": "1"}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_what_a_dead_server_did_not_take_is_sent_when_the_command_runs_again(
    tmp_path: Path, finished_tracking_db: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with caplog.at_level(logging.WARNING, "hnm"):
        tracker = Tracker(tmp_path, TrackingConfig(uri=f"http://127.0.0.1:{closed_port()}"), {"seed": 1})
        tracked(tmp_path, tracker).metrics("x", 0, loss=1.0)
        tracker.finish("FINISHED", [])
    (record,) = [record for record in caplog.records if record.name == "hnm"]
    assert "MLflow does not take the metrics" in record.getMessage()
    assert str(tmp_path / "events.jsonl") in record.getMessage()
    assert not (tmp_path / "mlflow_run_id.txt").exists()
    again = Tracker(tmp_path, TrackingConfig(uri=finished_tracking_db), {"seed": 1})
    tracked(tmp_path, again).metrics("x", 1, loss=0.5)
    again.finish("FINISHED", [])
    assert points(tmp_path, finished_tracking_db, "x/loss") == [(0, 1.0), (1, 0.5)]


def test_a_full_disk_takes_no_half_artifact_and_gets_all_when_there_is_room(
    tmp_path: Path, tracking_database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "report.html").write_bytes(b"x" * 2_000_000)
    with small_disk(tmp_path / "disk", "3m") as disk, caplog.at_level(logging.WARNING, "hnm"):
        shutil.copy(tracking_database, disk)
        stone = disk / "stone"
        config = TrackingConfig(uri=f"sqlite:///{disk}/mlflow.db")
        tracker = Tracker(run, config, {"seed": 1})
        journal = tracked(run, tracker)
        stone.write_bytes(b"x" * (shutil.disk_usage(disk).free - 1_000_000))
        journal.metrics("x", 0, loss=1.0)
        tracker.finish("FINISHED", [(run / "report.html", None)])
        assert not list(disk.rglob("report.html"))
        (record,) = [record for record in caplog.records if record.name == "hnm"]
        assert "MLflow does not take the metrics (OSError: [Errno 28] No space left on device" in record.getMessage()
        with suppress(OSError), open(stone, "ab") as file:  # not even the database has room
            while True:
                file.write(b"x" * 4096)
                file.flush()
        again = Tracker(run, config, {"seed": 1})
        tracked(run, again).metrics("x", 1, loss=0.5)
        again.finish("FINISHED", [])
        assert "full" in caplog.records[-1].getMessage()
        stone.unlink()
        again.finish("FINISHED", [(run / "report.html", None)])
        assert points(run, f"sqlite:///{disk}/mlflow.db", "x/loss") == [(0, 1.0), (1, 0.5)]
        assert [path.stat().st_size for path in disk.rglob("report.html")] == [2_000_000]


def test_tracking_can_be_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(tmp_path, TrackingConfig(enabled=False), {})
    tracker.metrics_written({"x/loss": 1.0}, 0)
    tracker.flush()
    tracker.finish("FINISHED", [(tmp_path / "config.yaml", None)])
    assert list(tmp_path.iterdir()) == []
    assert not caplog.records


def test_training_goes_on_without_its_tracker(
    tmp_path: Path,
    tiny_cohort: Path,
    finished_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = tmp_path / "run"
    overrides = [*TINY, "tracking.enabled=true", f"tracking.uri=http://me:hunter-2@127.0.0.1:{closed_port()}"]
    with caplog.at_level(logging.WARNING, "hnm"):
        assert verbs.train(tiny_cohort, run, None, None, "hnm", overrides, ranks=1) == 0
    (record,) = [record for record in caplog.records if record.name == "hnm"]
    assert "hunter-2" not in record.getMessage()
    assert [path for path in run.rglob("*") if path.is_file() and b"hunter-2" in path.read_bytes()] == []
    ours, others = results_of(run), results_of(finished_run)
    ours.pop("config.yaml"), others.pop("config.yaml")
    assert ours == others


def test_a_resumed_training_goes_on_in_its_mlflow_run(tmp_path: Path, tiny_cohort: Path, finished_run: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    for attempt in range(2):
        for path in run.glob("round-00[12]/*") if attempt == 0 else (run / "round-002").glob("*"):
            path.unlink()
        assert verbs.train(tiny_cohort, run, None, None, "hnm", [*TINY, "tracking.enabled=true"], ranks=1) == 0
    client = MlflowClient(f"sqlite:///{run / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "hnm"]
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["finetune.batch_size"] == "16"
    steps = [step for step, _ in points(run, f"sqlite:///{run / 'mlflow.db'}", "round/validation_auc")]
    assert steps == [0, 1, 2]  # each once, also those of the first process, which did not track
    phases = json.loads((run / "state.json").read_text())["phases"]
    num_steps = sum(known["steps"] for known in phases if known["phase"] == "finetune")
    uri = f"sqlite:///{run / 'mlflow.db'}"
    both = [points(run, uri, f"finetune/step_{kind}_loss") for kind in ("negative", "positive")]
    assert sorted(step for series in both for step, _ in series) == list(range(1, num_steps + 1))  # over both rounds
    assert [step for step, _ in points(run, uri, "pretrain/step_loss")] == [1, 2, 3, 4]
    assert [step for step, _ in points(run, uri, "pretrain/loss")] == [4]
    told = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in told if event.get("phase") == "round" and "step" in event] == [0, 1, 2, 1, 2, 2]
    names = {file.path for file in client.list_artifacts(tracked.info.run_id)}
    assert names == {"config.yaml", "environment.json", "mining.json"}
