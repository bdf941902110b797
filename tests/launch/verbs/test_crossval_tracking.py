"""A cross-validation in MLflow where nodes share the disk: one database, written by one process, at the end."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hnm.config import load_config
from launch.verbs import crossval
from launch.verbs.crossval_folder import Request


def test_on_a_cluster_whoever_joins_the_folds_tells_mlflow(
    evaluated_run: Path, tracking_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    out = tmp_path / "cv"
    asked = Request(tmp_path, out, 3, 1, None, None, "hnm", [], None, None, 1)
    config = load_config(None, "hnm", ["tracking.enabled=true"])
    for fold in range(3):
        key = (0, fold)
        assert "tracking.enabled=false" in crossval.fold_overrides(asked, config, key, "")  # nothing of it in the database
        shutil.copytree(evaluated_run, crossval.run_folder(out, key))
    shutil.copy(tracking_database, out / "mlflow.db")
    for _ in range(2):  # the second time, all are known
        crossval.finish_tracking(asked, config, crossval.parent_tracker(asked, config), "FINISHED")
        client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
        (experiment,) = [found for found in client.search_experiments() if found.name == "hnm"]
        runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
        assert set(runs) == {"cv", "fold-0", "fold-1", "fold-2"}
    parent = runs.pop("cv")
    for run in runs.values():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (run.info.status, parent.info.status) == ("FINISHED", "FINISHED")
        assert run.data.params["finetune.batch_size"] == "16"
        assert "round/validation_auc" in run.data.metrics
        assert client.list_artifacts(run.info.run_id)
