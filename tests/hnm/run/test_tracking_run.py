"""A run directory's MLflow run: found again by tag, and followed when the directory moves."""

import shutil
from pathlib import Path

from mlflow import MlflowClient

from hnm.installed import commit_of_code
from hnm.run.tracking import Tracker, TrackingConfig
from hnm.run.tracking_run import files_of_run, follow_move, own_id
from launch.verbs import train as verbs


def use(folder: Path, config: TrackingConfig, name: str = "note.txt") -> str:
    """Track one file from `folder`; return the MLflow run's id."""
    folder.mkdir(exist_ok=True)
    tracker = Tracker(folder, config, {})
    (folder / name).write_text(name)
    tracker.finish("FINISHED", [(folder / name, "notes")], {"hnm.attempts": "1"})
    return tracker.run_id


def test_a_run_is_found_by_tag_with_its_commit_and_its_parent(tmp_path: Path, tracking_database: Path) -> None:
    shutil.copy(tracking_database, tmp_path / "shared.db")
    shared = TrackingConfig(uri=f"sqlite:///{tmp_path / 'shared.db'}")
    one, two = tmp_path / "one", tmp_path / "two"
    first = use(one, shared)
    other = use(two, shared.model_copy(update={"parent_run": first}))
    (one / "mlflow_run_id.txt").unlink()  # lost, or never written: a crash between making the run and noting it
    assert use(one, shared) == first
    assert (one / "mlflow_run_id.txt").read_text().strip() == first
    client = MlflowClient(str(shared.uri))
    tags = client.get_run(first).data.tags
    assert tags["hnm.attempts"] == "1"
    assert tags["hnm.run_directory_id"] == own_id(one)
    assert tags["mlflow.source.git.commit"] == commit_of_code()
    assert client.get_run(other).data.tags["mlflow.parentRunId"] == first
    assert other != first
    assert Path(client.download_artifacts(first, "notes/note.txt", str(tmp_path))).read_text() == "note.txt"
    assert (tmp_path / "mlartifacts").is_dir()  # beside the database, not in the working directory


def test_a_moved_run_directory_keeps_its_artifacts(tmp_path: Path, tracking_database: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    shutil.copy(tracking_database, old)
    run_id = use(old, TrackingConfig())
    shutil.move(old, new)
    tracker = Tracker(new, TrackingConfig(), {})
    tracker.finish("FINISHED", [])
    assert tracker.run_id == run_id
    client = MlflowClient(f"sqlite:///{new / 'mlflow.db'}")
    place = client.get_run(run_id).info.artifact_uri
    assert place == f"{new.as_uri()}/mlartifacts/{run_id}/artifacts"
    assert (Path(place.removeprefix("file://")) / "notes" / "note.txt").read_text() == "note.txt"
    assert client.get_experiment_by_name("hnm").artifact_location == f"{new.as_uri()}/mlartifacts"
    assert not old.exists()
    before = (new / "mlflow.db").read_bytes()
    follow_move(new)
    assert (new / "mlflow.db").read_bytes() == before  # nothing to change
    follow_move(tmp_path)  # no database: nothing happens


def test_an_evaluation_stores_figures_pictures_page_and_model(
    evaluated_run: Path, tracking_database: Path, tmp_path: Path
) -> None:
    stored = {(path.name, target) for path, target in files_of_run(evaluated_run)}
    assert {("metrics.json", None), ("report.html", None), ("mining.json", None)} <= stored
    assert {("curves.png", "figures"), ("MODEL.md", "model"), ("encoder.safetensors", "model")} <= stored
    assert not any(name == "scores.npy" for name, _ in stored)
    run = tmp_path / "run"
    shutil.copytree(evaluated_run, run)
    shutil.copy(tracking_database, run)
    for name in ("metrics.json", "report.html"):
        (run / name).unlink()
    config = (run / "config.yaml").read_text().replace("enabled: false", "enabled: true")
    (run / "config.yaml").write_text(config)
    assert verbs.evaluate(run, None, ranks=1, with_report=False) == 0
    client = MlflowClient(f"sqlite:///{run / 'mlflow.db'}")
    tracked = client.get_run((run / "mlflow_run_id.txt").read_text().strip())
    assert {file.path for file in client.list_artifacts(tracked.info.run_id, "model")} >= {"model/MODEL.md"}
    assert tracked.data.metrics["test/slide_auc"] in (0.0, 0.5, 1.0)  # of two slides
    assert tracked.data.metrics["test/num_test_slides"] == 2
    assert tracked.data.params["finetune.batch_size"] == "16"
