"""A finished file is what it was when it was finished: its checksum stands in state.json and is compared when it is read.

    phase ends ──sha256 of its files──▶ state.json {"files": {"round-000/encoder.safetensors": "9f86..."}} ──▶ whole(path)

A disk or a copy may flip a bit, and weights with one bit flipped still load: scores then move, and nothing says so. A file
without a checksum (of an older run, or of a process that died right after it) is taken as it is, and so is one of another run.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hnm.engine.checkpoint import digest
from hnm.engine.ranks import World, broadcast_array, seen
from shards.errors import InputError
from shards.files import write_json

ENCODERS = ("encoder-start.safetensors", "encoder.safetensors")
MINED_FILES = (
    "scores.npy", "score_ages.npy", "slide_scores.npy", "pseudo_labels.npy", "weights.npy", "candidates.npy",
    "candidate_scores.npy", "baselines.npz", "mining.json",
)  # fmt: skip
EVALUATED_FILES = ("patch_scores.npy", "predictions.parquet", "metrics.json")


def read_state(run: Path) -> dict[str, Any]:
    """Return state.json: the cohort, the phases done with their seconds and optimizer steps, the attempts, checksums.

    Raises:
        InputError: it is damaged.
    """
    path = run / "state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(state["phases"], list):
            raise TypeError("phases is no list")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: damaged ({type(error).__name__}: {error}). It is written whole, so a disk or a copy has cut it. Put a "
            "whole copy there, or begin anew: hnm train with --restart --yes, or another folder"
        ) from None
    return dict(state)


def read_json(path: Path, command: str) -> dict[str, Any]:
    """Return the content of a finished JSON file of a run.

    Args:
        command: what makes it, if it is not there.

    Raises:
        InputError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    except ValueError as error:
        raise InputError(
            f"{path}: damaged ({error}). Put a whole copy there, or remove it and run the same {command} again, which makes it "
            "anew"
        ) from None
    return content


def files_of_phase(name: str, round_: int, run: Path, is_there: bool = True) -> list[Path]:
    """Return the files that a phase ends with, or those that are there; not the features, which the next phase removes."""
    folder = run / f"round-{round_:03d}"
    paths = {
        "pretrain": [run / file for file in ENCODERS],
        "aggregate": [folder / "aggregator.safetensors"],
        "mine": [folder / file for file in MINED_FILES],
        "finetune": [folder / "encoder.safetensors"],
    }.get(name, [])
    return [path for path in paths if path.is_file() or not is_there]


def checksums(paths: Iterable[Path], run: Path) -> dict[str, str]:
    """Return the SHA-256 of files of a run by their names in it."""
    return {path.relative_to(run).as_posix(): digest(path) for path in paths}


def note_files(paths: Iterable[Path], run: Path) -> None:
    """Note the checksums of finished files in state.json. Call it on rank 0 only."""
    state = read_state(run)
    write_json(run / "state.json", {**state, "files": {**state.get("files", {}), **checksums(paths, run)}})


def whole(path: Path, run: Path, world: World) -> Path:
    """Return `path`, a finished file of the run, if it is what it was when it was finished. Every rank must call it.

    Raises:
        InputError: it is damaged, on every rank.
    """
    require_whole([path], run, world)
    return seen(path, world)


def require_whole(paths: Sequence[Path], run: Path, world: World) -> None:
    """Refuse finished files of a run that are not what they were. Every rank must call it; rank 0 alone reads them.

    Raises:
        InputError: naming the first that is damaged, on every rank.
    """
    found = np.array([_first_damaged(paths, run)]) if world.is_main else None
    place = int(broadcast_array(found, world)[0])
    if place >= 0:
        raise InputError(
            f"{paths[place]}: damaged: its checksum is not the one that state.json has noted when it was finished. Put a whole "
            f"copy there; or remove {_what_to_remove(paths[place])} and run the same command again, which makes it anew"
        )


def _first_damaged(paths: Sequence[Path], run: Path) -> int:
    """Return the place of the first file that is there and is not what it was, -1 if there is none."""
    known = read_state(run).get("files", {}) if (run / "state.json").is_file() else {}
    for place, path in enumerate(paths):
        expected = known.get(path.relative_to(run).as_posix()) if path.is_relative_to(run) else None
        if expected is not None and path.is_file() and digest(path) != expected:
            return place
    return -1


def _what_to_remove(path: Path) -> str:
    """Return what must go, so that the same command computes a file again."""
    if path.name in ("mining.json", *ENCODERS):
        return "it"
    if path.name in EVALUATED_FILES:
        return "it and metrics.json" if path.name != "metrics.json" else "it"
    return f"it and {path.with_name('mining.json')}"
