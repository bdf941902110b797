"""MLflow, from rank 0 only. Whatever goes wrong here, training goes on; the same numbers are in events.jsonl.

The run id is kept in the run directory (mlflow_run_id.txt), so that a command that resumes a run goes on in the same MLflow run.
"""

import logging
import os
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from shards.files import whole_file

FLUSH_AT = 200  # metrics a call: a call costs 10 to 20 ms, whatever it carries
PARAM_LENGTH = 6000  # MLflow's limit for a parameter's value


class TrackingConfig(BaseModel):
    """Where MLflow keeps the run."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool = Field(True, description="false: no MLflow at all; events.jsonl is written in any case")
    uri: str | None = Field(
        None, description="tracking server or database; default: a SQLite file in the run directory"
    )
    experiment: str = Field("hnm", description="MLflow experiment that the run is filed under")
    parent_run: str | None = Field(
        None, description="id of the MLflow run under which this one is shown, such as the folds of a cross-validation"
    )


class Tracker:
    """One MLflow run. The first failure is logged and ends tracking; it never reaches the caller.

    Args:
        folder: the run directory.
        config: where to track.
    """

    def __init__(self, folder: Path, config: TrackingConfig) -> None:
        self.folder, self.config = folder, config
        self.client: Any = None
        self.run_id = ""
        self.pending: list[Any] = []
        if config.enabled:
            self._guarded(self._start)

    def log_params(self, params: dict[str, Any]) -> None:
        """Log the resolved config, flattened to dotted keys. Those that a resumed run has already are left as they are."""
        self._guarded(lambda: self._log_params(_flatten(params)))

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Queue numbers; they are sent in batches."""
        if self.client is None:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.pending += [Metric(name, value, now, step) for name, value in metrics.items()]
        if len(self.pending) >= FLUSH_AT:
            self.flush()

    def log_file(self, path: Path) -> None:
        """Store a file with the run."""
        self._guarded(lambda: self.client.log_artifact(self.run_id, str(path)))

    def flush(self) -> None:
        """Send what is queued."""
        pending, self.pending = self.pending, []
        if pending:
            self._guarded(lambda: self.client.log_batch(self.run_id, metrics=pending))

    def finish(self, status: str) -> None:
        """Send what is queued and mark the run FINISHED or FAILED."""
        self.flush()
        self._guarded(lambda: self.client.set_terminated(self.run_id, status))

    def _start(self) -> None:
        # a dead server is to cost half a minute at the start, not MLflow's default of several
        defaults = {"DISABLE_TELEMETRY": "true", "HTTP_REQUEST_MAX_RETRIES": "2", "HTTP_REQUEST_TIMEOUT": "10"}
        for name, value in defaults.items():
            os.environ.setdefault(f"MLFLOW_{name}", value)
        from mlflow import MlflowClient

        for chatty in ("alembic", "mlflow"):  # after the import, which sets its own levels
            logging.getLogger(chatty).setLevel(logging.WARNING)

        uri = self.config.uri or f"sqlite:///{(self.folder / 'mlflow.db').resolve()}"
        client = MlflowClient(uri)
        id_file = self.folder / "mlflow_run_id.txt"
        if id_file.is_file():
            self.run_id = id_file.read_text(encoding="utf-8").strip()
            client.update_run(self.run_id, status="RUNNING")
        else:
            self.run_id = self._create(client)
            with whole_file(id_file) as temporary:
                temporary.write_text(self.run_id + "\n", encoding="utf-8")
        self.client = client

    def _create(self, client: Any) -> str:
        experiment = client.get_experiment_by_name(self.config.experiment)
        local = self.config.uri is None
        artifacts = (self.folder / "mlartifacts").resolve().as_uri() if local else None
        experiment_id = (
            experiment.experiment_id if experiment else client.create_experiment(self.config.experiment, artifacts)
        )
        tags = {"mlflow.parentRunId": self.config.parent_run} if self.config.parent_run else {}
        return str(client.create_run(experiment_id, run_name=self.folder.name, tags=tags).info.run_id)

    def _log_params(self, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        fresh = [Param(key, value[:PARAM_LENGTH]) for key, value in params.items() if key not in known]
        for i in range(0, len(fresh), 100):  # MLflow takes 100 parameters a call
            self.client.log_batch(self.run_id, params=fresh[i : i + 100])

    def _guarded(self, action: Any) -> None:
        """Run one MLflow action; after a failure tracking is off and the reason is on record."""
        starting = action == self._start
        if self.client is None and not starting:
            return
        try:
            action()
        except Exception as error:  # any failure of the tracker, a library of many layers, must leave training alone
            self.client = None
            logging.getLogger("hnm").warning(
                "MLflow tracking stopped (%s: %s). Training goes on; the metrics are in %s",
                type(error).__name__,
                str(error).splitlines()[0] if str(error) else "",
                self.folder / "events.jsonl",
            )


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested sections as {"a.b": "value"}."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = str(value)
    return flat
