"""MLflow, from rank 0 only, follows events.jsonl. Whatever goes wrong here, training goes on.

    Journal.metrics, Journal.point ──▶ run/events.jsonl ──from the byte in mlflow_sent.json on──▶ MLflow

So a number that MLflow did not take (no answer, database locked, process killed) is sent later: every ten minutes it is tried
again, at the end, and when the command is run again. MLflow works in a thread, for which nothing waits long; on a disk that
nodes share its database is a copy on the node's own (hnm/run/tracking_copy.py). What is sent twice is one point: its time
stands in the file. Steps that a resumed process takes again stand in events.jsonl twice; only the first is sent. The run id is
kept in the run directory (mlflow_run_id.txt), so that a command that resumes a run goes on in the same MLflow run; if that file
is lost, the run is found by its tags (see hnm/run/tracking_run.py).
"""

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from hnm.run.told import flatten, numbers_of, read_events
from hnm.run.tracking_copy import Aside, DatabaseCopy
from hnm.run.tracking_run import (
    artifact_location,
    find_run,
    follow_move,
    remove_partial,
    tags_of_code,
    tags_of_new_run,
    tracking_uri,
)
from shards.files import whole_file
from shards.secrets import SecretText, scrub

ID_FILE = "mlflow_run_id.txt"
SENT_FILE = "mlflow_sent.json"  # how far events.jsonl has been sent, and the last step of each metric
FLUSH_AT = 200  # metrics a call: a call costs 10 to 20 ms, whatever it carries
FLUSH_EVERY_S = 30.0
RETRY_EVERY_S = 600.0
WAIT_S = 30.0  # for an answer, in training and when a run is to stop soon
WAIT_AT_END_S = 300.0
PARAM_LENGTH = 6000  # MLflow's limit for a parameter's value
TAG_LENGTH = 5000  # and for a tag's


class TrackingConfig(BaseModel):
    """Where MLflow keeps the run."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool = Field(True, description="false: no MLflow at all; events.jsonl is written in any case")
    uri: SecretText | None = Field(
        None, description="tracking server or database; default: a SQLite file in the run directory"
    )
    experiment: str = Field("hnm", description="MLflow experiment that the run is filed under")
    parent_run: str | None = Field(
        None, description="id of the MLflow run under which this one is shown, such as the folds of a cross-validation"
    )


class Tracker:
    """One MLflow run. The first failure is logged; none reaches the caller.

    Args:
        folder: the run directory.
        config: where to track.
        params: the resolved config. Parameters that a resumed run has already are left as they are.
        copy: the database, where it is one in a folder that nodes share: MLflow gets a copy, every ten minutes and at the end.
    """

    def __init__(
        self, folder: Path, config: TrackingConfig, params: dict[str, Any], copy: DatabaseCopy | None = None
    ) -> None:
        self.folder, self.config, self.params, self.copy = folder, config, flatten(params), copy
        self.aside = Aside()
        self.to_note: dict[str, str] = {}  # what is written beside the database once that is where it belongs
        self.client: Any = None
        self.run_id = ""
        self.num_waiting, self.tried = 0, time.monotonic()
        self.told = False
        if copy is None:
            self._guarded(lambda: None)  # connects

    def metrics_written(self, metrics: dict[str, float], step: int) -> None:
        """Note that numbers were added to events.jsonl; now and then, send what is there."""
        self.num_waiting += len(metrics)
        is_live = self.client is not None and self.copy is None
        wait_s = FLUSH_EVERY_S if is_live else RETRY_EVERY_S
        enough = is_live and self.num_waiting >= FLUSH_AT
        if enough or time.monotonic() - self.tried >= wait_s:
            self.flush()

    def flush(self) -> None:
        """Send what events.jsonl holds and MLflow has not."""
        self.num_waiting, self.tried = 0, time.monotonic()
        self._guarded(self._send)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Set tags of the run; those of the same name are replaced. With a copy only `finish` sets any."""
        if self.copy is None:
            self._guarded(lambda: self._set_tags(tags))

    def finish(self, status: str, files: list[tuple[Path, str | None]], tags: dict[str, str] | None = None) -> None:
        """Send what is left, store files and tags with the run and mark it FINISHED, FAILED or KILLED.

        Args:
            status: MLflow's word.
            files: each with its artifact folder; None is the artifacts' root.
            tags: set at the end.
        """

        def all_of_it() -> None:
            self._send()
            self._set_tags(tags or {})
            for path, target in files:
                try:
                    self.client.log_artifact(self.run_id, str(path), target)
                except Exception:
                    remove_partial(self.client.get_run(self.run_id).info.artifact_uri, path, target)
                    raise
            self.client.set_terminated(self.run_id, status)

        self._guarded(all_of_it, WAIT_S if status == "KILLED" else WAIT_AT_END_S)

    def close(self) -> None:
        """Remove the copy, unless MLflow is still at work on it."""
        if self.copy is not None and not self.aside.is_busy:
            self.copy.close()
            self.client = None

    def _connect(self) -> None:
        # a dead server is to cost half a minute at the start, not MLflow's default of several
        defaults = {"DISABLE_TELEMETRY": "true", "HTTP_REQUEST_MAX_RETRIES": "2", "HTTP_REQUEST_TIMEOUT": "10"}
        for name, value in defaults.items():
            os.environ.setdefault(f"MLFLOW_{name}", value)
        from mlflow import MlflowClient

        for chatty in ("alembic", "mlflow"):  # after the import, which sets its own levels
            logging.getLogger(chatty).setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # pages about a lock, of which we say a line

        uri = self._uri()
        if self.copy is not None:
            follow_move(self.copy.home.parent, self.copy.open())
            uri = f"sqlite:///{self.copy.open()}"
        elif self.config.uri is None:
            follow_move(self.folder)
        client = MlflowClient(uri)
        id_file = self.folder / ID_FILE
        known = id_file.read_text(encoding="utf-8").strip() if id_file.is_file() else ""
        if known and _begin_again(client, known):
            self.run_id = known
        else:
            self.run_id = self._find_or_create(client)
            self._note(id_file.name, self.run_id + "\n")
        for name, value in tags_of_code(self.folder).items():
            client.set_tag(self.run_id, name, value)
        self._log_params(client)
        self.client = client

    def _uri(self) -> str:
        """Return where the run is in the end."""
        return tracking_uri(self.copy.home.parent if self.copy else self.folder, self.config.uri)

    def _note(self, name: str, text: str) -> None:
        """Write a small file: what is in the database now. A copy has to be brought home first."""
        self.to_note[name] = text
        if self.copy is None:
            self._write_notes()

    def _write_notes(self) -> None:
        for name, text in self.to_note.items():
            with whole_file(self.folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
        self.to_note = {}

    def _find_or_create(self, client: Any) -> str:
        """Return the run of this directory: one that has its tag (the id's file was lost), else a new one."""
        experiment = client.get_experiment_by_name(self.config.experiment)
        artifacts = artifact_location(self._uri())
        experiment_id = (
            experiment.experiment_id if experiment else client.create_experiment(self.config.experiment, artifacts)
        )
        if (found := find_run(client, experiment_id, self.folder)) is not None:
            client.update_run(found, status="RUNNING")
            return found
        (self.folder / SENT_FILE).unlink(missing_ok=True)  # nothing has been sent to a new run
        tags = tags_of_new_run(self.folder, self.config.parent_run)
        return str(client.create_run(experiment_id, run_name=self.folder.name, tags=tags).info.run_id)

    def _log_params(self, client: Any) -> None:
        from mlflow.entities import Param

        known = client.get_run(self.run_id).data.params
        fresh = [Param(key, value[:PARAM_LENGTH]) for key, value in self.params.items() if key not in known]
        for i in range(0, len(fresh), 100):  # MLflow takes 100 parameters a call
            client.log_batch(self.run_id, params=fresh[i : i + 100])

    def _set_tags(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        for i in range(0, len(names := sorted(tags)), 100):  # MLflow takes 100 tags a call
            self.client.log_batch(
                self.run_id, tags=[RunTag(name, tags[name][:TAG_LENGTH]) for name in names[i : i + 100]]
            )

    def _send(self) -> None:
        from mlflow.entities import Metric

        sent: dict[str, Any] = {"bytes": 0, "last_steps": {}}
        if (sent_file := self.folder / SENT_FILE).is_file():
            sent |= json.loads(sent_file.read_text(encoding="utf-8"))
        last: dict[str, int] = sent["last_steps"]
        batch: list[Any] = []
        end = sent["bytes"]
        for end, event in read_events(self.folder / "events.jsonl", sent["bytes"]):
            for name, value in numbers_of(event):
                if event["step"] > last.get(name, -1):  # else a process that was resumed has taken the step again
                    batch.append(Metric(name, value, int(event["time"] * 1000), event["step"]))
                    last[name] = event["step"]
            if len(batch) >= FLUSH_AT:
                self._send_batch(batch, end, last)
                batch = []
        if batch or end > sent["bytes"]:
            self._send_batch(batch, end, last)

    def _send_batch(self, batch: list[Any], end: int, last_steps: dict[str, int]) -> None:
        if batch:
            self.client.log_batch(self.run_id, metrics=batch)
        self._note(SENT_FILE, json.dumps({"bytes": end, "last_steps": last_steps}, indent=2) + "\n")

    def _act(self, action: Callable[[], None]) -> None:
        """Run one MLflow action, after connecting anew if need be; bring the database home if it is a copy."""
        if self.client is None:
            self._connect()
        action()
        if self.copy is not None:
            self.copy.bring_home()
            self._write_notes()

    def _guarded(self, action: Callable[[], None], wait_s: float | None = None) -> None:
        """Run one MLflow action aside, and wait for it for a while; the first failure is on record."""
        if not self.config.enabled:
            return
        try:
            self.aside.run(lambda: self._act(action), WAIT_S if wait_s is None else wait_s)
        except Exception as error:  # any failure of the tracker, a library of many layers, must leave training alone
            self.client = None
            if not self.told:
                self.told = True
                logging.getLogger("hnm").warning(
                    "MLflow does not take the metrics (%s: %s). Training goes on; they are in %s and are sent when it does: "
                    "now and then, at the end, or when the same command is run again",
                    type(error).__name__,
                    scrub(str(error).splitlines()[0]) if str(error) else "",
                    self.folder / "events.jsonl",
                )


def _begin_again(client: Any, run_id: str) -> bool:
    """Mark a run as running; False: the server or database has no such run (any more)."""
    from mlflow.exceptions import MlflowException

    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True
