"""Which MLflow run belongs to a run directory: its tags, how it is found again, and the files that are stored with it.

run/run_id.txt ──tag hnm.run_directory_id──▶ the MLflow run, on whichever server, even if mlflow_run_id.txt is lost
"""

import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from hnm.installed import commit_of_code
from hnm.run.targets import TARGETS_FOLDER
from shards.files import whole_file
from shards.secrets import SecretText

ID_TAG = "hnm.run_directory_id"
# Without the second a server keeps a job queue that we don't use: 0.8 GB of memory more.
SERVER_SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
MODEL_FOLDER = "model"  # in the run directory, and among the artifacts
ROOT_FILES = ("config.yaml", "environment.json", "metrics.json", "predictions.parquet", "report.html")


def tracking_uri(folder: Path, uri: SecretText | None) -> str:
    """Return where runs of `folder` are tracked: the given server or database, else a SQLite file in the folder."""
    return uri.reveal() if uri else f"sqlite:///{(folder / 'mlflow.db').resolve()}"


def artifact_location(uri: str) -> str | None:
    """Return where a new experiment keeps its files: beside a SQLite database, else where the server says (None)."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri()


def remove_partial(artifact_uri: str, path: Path, target: str | None) -> None:
    """Remove what a full disk has left of an artifact: half a file would keep it full, and look like a whole one.

    Args:
        artifact_uri: the run's; a server's own storage is not ours to tidy.
        path: the file that was to be stored.
        target: its artifact folder; None is the root.
    """
    if artifact_uri.startswith("file:"):
        copy = Path(url2pathname(urlsplit(artifact_uri).path), target or "", path.name)
        if copy.is_file() and copy.stat().st_size != path.stat().st_size:
            copy.unlink()


def follow_move(folder: Path, copy: Path | None = None) -> None:
    """Let the folder's own database, or a copy of it, say that the artifacts are in the folder.

    MLflow writes down where an experiment's files are as a whole path. In a run directory that was moved or copied it would
    go on writing to the old place, or show nothing.
    """
    database, here = copy or folder / "mlflow.db", (folder / "mlartifacts").resolve().as_uri()
    if not database.is_file():
        return
    with closing(sqlite3.connect(database, timeout=10)) as connection, connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return  # made, and not filled yet
        rows = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for (place,) in rows:
            if place and place.startswith("file:") and place.endswith("/mlartifacts") and place != here:
                for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                    change = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
                    connection.execute(change, (here, len(place) + 1, len(place), place))


def own_id(folder: Path) -> str:
    """Return the run directory's own id, made when it is first asked for; it stays with the directory."""
    path = folder / "run_id.txt"
    if not path.is_file():
        with whole_file(path) as temporary:
            temporary.write_text(uuid.uuid4().hex + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def find_run(client: Any, experiment_id: str, folder: Path) -> str | None:
    """Return the id of the MLflow run that carries the run directory's tag, the newest of several; None: there is none."""
    query = f"tags.`{ID_TAG}` = '{own_id(folder)}'"
    found = client.search_runs([experiment_id], query, max_results=1, order_by=["attributes.start_time DESC"])
    return str(found[0].info.run_id) if found else None


def tags_of_new_run(folder: Path, parent_run: str | None) -> dict[str, str]:
    """Return the tags that never change: the directory's id, what made the run, and the run that it is shown under."""
    tags = {ID_TAG: own_id(folder), "mlflow.source.name": "hnm", "mlflow.source.type": "LOCAL"}
    return tags | ({"mlflow.parentRunId": parent_run} if parent_run else {})


def tags_of_code(folder: Path) -> dict[str, str]:
    """Return the tags that every attempt sets anew: the directory's id (runs of older versions have none) and the commit."""
    commit = commit_of_code()
    return {ID_TAG: own_id(folder)} | ({"mlflow.source.git.commit": commit} if commit else {})


def files_of_run(folder: Path) -> list[tuple[Path, str | None]]:
    """Return the files of a run that are stored with it, as far as they are there, each with its artifact folder.

    None is the artifacts' root. Features, scores of all patches and the rounds' weights stay in the run directory.
    """
    files: list[tuple[Path, str | None]] = [(folder / name, None) for name in ROOT_FILES]
    files += [(path, None) for path in sorted(folder.glob("round-*/mining.json"))[-1:]]
    of_targets = (sorted(folder.glob(f"{TARGETS_FOLDER}/*/{name}")) for name in ROOT_FILES)
    files += [(path, path.parent.relative_to(folder).as_posix()) for paths in of_targets for path in paths]
    files += [(path, "figures") for path in sorted(folder.glob("figures/*.png"))]
    files += [(path, MODEL_FOLDER) for path in sorted(folder.glob(f"{MODEL_FOLDER}/*"))]
    return [(path, target) for path, target in files if path.is_file()]
