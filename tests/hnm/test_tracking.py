"""MLflow: a real SQLite run that is found again, and failures that training outlives."""

import logging
import shutil
import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hnm.tracking import Tracker, TrackingConfig
from launch import verbs
from tests.tiny import TINY, results_of


def test_a_run_is_made_filled_and_found_again(tmp_path: Path) -> None:
    for attempt in (0, 1):
        tracker = Tracker(tmp_path, TrackingConfig())
        tracker.log_params({"seed": 3, "mining": {"neg_ratio": 0.05 + attempt, "ties": "exact"}, "long": "x" * 9000})
        tracker.log_metrics({"round/auc": 0.5 + attempt / 4}, step=attempt)
        (tmp_path / "config.yaml").write_text(f"attempt: {attempt}\n")
        tracker.log_file(tmp_path / "config.yaml")
        tracker.finish("FINISHED" if attempt else "FAILED")
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "hnm"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == (tmp_path / "mlflow_run_id.txt").read_text().strip() == tracker.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params["mining.neg_ratio"] == "0.05"  # MLflow's parameters cannot change: the first attempt's stay
    assert run.data.params["mining.ties"] == "exact"
    assert len(run.data.params["long"]) == 6000
    history = client.get_metric_history(run.info.run_id, "round/auc")
    assert [(metric.step, metric.value) for metric in history] == [(0, 0.5), (1, 0.75)]
    artifact = client.download_artifacts(run.info.run_id, "config.yaml", str(tmp_path))
    assert Path(artifact).read_text() == "attempt: 1\n"


def test_many_metrics_all_arrive(tmp_path: Path, finished_tracking_db: str) -> None:
    tracker = Tracker(tmp_path, TrackingConfig(uri=finished_tracking_db, experiment="many"))
    for step in range(450):
        tracker.log_metrics({"loss": step / 2}, step)
    tracker.finish("FINISHED")
    history = MlflowClient(finished_tracking_db).get_metric_history(tracker.run_id, "loss")
    assert sorted(metric.step for metric in history) == list(range(450))


@pytest.fixture(scope="module")
def finished_tracking_db(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of a database that runs of several folders share."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'shared.db'}"


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def use_all_of(tracker: Tracker, folder: Path) -> None:
    tracker.log_params({"seed": 1})
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.log_file(folder / "config.yaml")
    tracker.finish("FINISHED")


def test_a_server_that_does_not_answer_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with caplog.at_level(logging.WARNING, "hnm"):
        tracker = Tracker(tmp_path, TrackingConfig(uri=f"http://127.0.0.1:{closed_port()}"))
        use_all_of(tracker, tmp_path)
    (record,) = [record for record in caplog.records if record.name == "hnm"]
    assert "MLflow tracking stopped" in record.getMessage()
    assert str(tmp_path / "events.jsonl") in record.getMessage()
    assert not (tmp_path / "mlflow_run_id.txt").exists()


def test_a_store_that_fails_midway_is_said_once(
    tmp_path: Path, finished_tracking_db: str, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(tmp_path, TrackingConfig(uri=finished_tracking_db, experiment="midway"))
    with caplog.at_level(logging.WARNING, "hnm"):
        tracker.log_file(tmp_path / "no such file")
        use_all_of(tracker, tmp_path)
    assert sum(record.name == "hnm" for record in caplog.records) == 1


def test_tracking_can_be_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(tmp_path, TrackingConfig(enabled=False))
    use_all_of(tracker, tmp_path)
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
    overrides = [*TINY, "tracking.enabled=true", f"tracking.uri=http://127.0.0.1:{closed_port()}"]
    with caplog.at_level(logging.WARNING, "hnm"):
        assert verbs.train(tiny_cohort, run, None, None, "hnm", overrides, ranks=1) == 0
    assert sum(record.name == "hnm" for record in caplog.records) == 1
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
    steps = [metric.step for metric in client.get_metric_history(tracked.info.run_id, "round/validation_auc")]
    assert steps == [1, 2, 2]  # round 2 was done by both
    names = {file.path for file in client.list_artifacts(tracked.info.run_id)}
    assert names == {"config.yaml", "environment.json", "mining.json"}
