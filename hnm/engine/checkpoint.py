"""Checkpoints: what a training needs to go on from a step boundary, in step folders that are whole or absent.

    run/round-000/encoder/step-000400/        beside the file that the phase ends with, encoder.safetensors
        weights.safetensors ...               what engine.save wrote
        best.safetensors ...                  the best weights so far, or their moving average, where a phase has them
        progress.json                         epoch, step, running sums
        manifest.json                         whose it is; size and SHA-256 of every other file

A folder is written under a temporary name, fsynced and renamed. Nothing random is in it: every batch, augmentation and
initial weight is drawn from (seed, purpose, step) (shards/seeding.py), so there is no generator whose state could be lost,
and every rank reads its place from the plan. Nothing is ever unpickled: safetensors and JSON only.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from hnm.engine.state import load_weights, save_weights
from hnm.engine.step import Progress
from shards.errors import InputError
from shards.files import fsync_folder, write_json

FORMAT = 1
MANIFEST, PROGRESS = "manifest.json", "progress.json"
WEIGHTS = {"best": "best.safetensors", "average": "average.safetensors"}  # of Progress: where a phase has them
OURS = ("step-", ".step-", "refused-step-")  # what a folder of checkpoints holds

Identity = dict[str, Any]


class CheckpointConfig(BaseModel):
    """How often trainings are saved between the ends of their phases."""

    model_config = ConfigDict(extra="forbid")

    every_steps: int = Field(0, ge=0, description="optimizer steps between two checkpoints; 0 = by time only")
    every_minutes: float = Field(10.0, ge=0, description="minutes between two checkpoints; 0 = by steps only")
    keep: int = Field(2, ge=1, description="checkpoints of a phase that are kept; all go when the phase is done")


class BadCheckpoint(Exception):  # noqa: N818 - not an error of the program: the one before is taken
    """A checkpoint that cannot be used; the message says why."""


def step_folder(folder: Path, num_steps: int) -> Path:
    """Return the folder of the checkpoint after `num_steps` optimizer steps of a phase."""
    return folder / f"step-{num_steps:06d}"


def temporary_folder(folder: Path, num_steps: int) -> Path:
    """Return where that checkpoint is written before it gets its name."""
    return folder / f".step-{num_steps:06d}.tmp"


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the step folders of a phase, the latest first."""
    found = [path for path in folder.glob("step-*") if path.name[5:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def latest_whole(folder: Path, identity: Identity, warn: Callable[[str], None]) -> Path | None:
    """Return the latest checkpoint of a phase that is whole and belongs to it, None if there is none. On rank 0 only.

    Those that cannot be used are said and get another name, so that they are not counted among those kept.
    """
    for path in list_checkpoints(folder):
        try:
            check(path, identity)
        except BadCheckpoint as problem:
            warn(f"{path}: {problem}; the checkpoint before it is taken")
            aside = path.with_name(f"refused-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(path, aside)
        else:
            return path
    return None


def write_progress(folder: Path, progress: Progress) -> None:
    """Write the counters of a checkpoint. Call it on rank 0 only."""
    counters = {entry.name: getattr(progress, entry.name) for entry in fields(Progress) if entry.name not in WEIGHTS}
    for name, file in WEIGHTS.items():
        if weights := getattr(progress, name):
            save_weights(folder / file, weights, {})
    write_json(folder / PROGRESS, counters)


def read_progress(folder: Path, progress: Progress) -> None:
    """Fill `progress` from a checkpoint that `check` has found whole.

    Raises:
        InputError: the file is not of this program.
    """
    try:
        counters = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        counters["losses"] = {kind: (total, number) for kind, (total, number) in counters["losses"].items()}
        known = {entry.name for entry in fields(Progress)} - WEIGHTS.keys()
        counters = {"best_epoch": None, **counters}  # older than that
        if counters.keys() != known:
            raise ValueError(f"has {sorted(counters)}, not {sorted(known)}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{folder / PROGRESS}: refused, not the counters of a training ({error})") from error
    vars(progress).update(counters)
    there = os.listdir(folder)
    for name, file in WEIGHTS.items():
        setattr(progress, name, load_weights(folder / file)[0] if file in there else {})


def seal(temporary: Path, final: Path, identity: Identity, keep: int) -> None:
    """Give a written checkpoint its manifest and its name, and remove those before the last `keep`. On rank 0 only.

    Args:
        temporary: the folder, as all ranks have filled it.
        final: its name from now on; what stands there is replaced.
        identity: what the checkpoint belongs to.
        keep: how many of the phase are kept.
    """
    names = sorted(path.name for path in temporary.iterdir())
    for name in names:
        with open(temporary / name, "rb") as file:
            os.fsync(file.fileno())
    files = {name: {"bytes": (temporary / name).stat().st_size, "sha256": digest(temporary / name)} for name in names}
    write_json(temporary / MANIFEST, {"format": FORMAT, "of": identity, "files": files})
    fsync_folder(temporary)
    if final.exists():
        shutil.rmtree(final)
    os.replace(temporary, final)
    fsync_folder(final.parent)
    for old in list_checkpoints(final.parent)[keep:]:
        shutil.rmtree(old)


def check(folder: Path, identity: Identity) -> None:
    """Compare a checkpoint with its manifest.

    Raises:
        BadCheckpoint: it is half, damaged, or of another run, phase or format.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found_format, of, files = manifest["format"], manifest["of"], manifest["files"]
        sizes = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"its {MANIFEST} cannot be read ({type(error).__name__})") from error
    if found_format != FORMAT:
        raise BadCheckpoint(f"its format is {found_format}, not {FORMAT}")
    if of != identity:
        other = [key for key in {**identity, **of} if identity.get(key) != of.get(key)]
        raise BadCheckpoint(f"it belongs to something else ({', '.join(other)} differ)")
    if PROGRESS not in sizes:
        raise BadCheckpoint(f"it has no {PROGRESS}")
    for name, (size, sha256) in sizes.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise BadCheckpoint(f"{name} is missing")
        if path.stat().st_size != size:
            raise BadCheckpoint(f"{name} has {path.stat().st_size} bytes instead of {size}")
        if digest(path) != sha256:
            raise BadCheckpoint(f"{name} is damaged (its checksum differs)")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settings_digest(settings: BaseModel | dict[str, Any]) -> str:
    """Return a short name of settings: equal for equal values."""
    values = settings.model_dump(mode="json") if isinstance(settings, BaseModel) else settings
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def sweep(run: Path) -> None:
    """Remove the checkpoints of phases that are done: beside encoder.safetensors, those in encoder/. On rank 0 only."""
    for pattern in ("*.safetensors", "round-*/*.safetensors"):
        for done in run.glob(pattern):
            folder = done.with_suffix("")
            if folder.is_dir() and all(path.name.startswith(OURS) for path in folder.iterdir()):
                shutil.rmtree(folder)
