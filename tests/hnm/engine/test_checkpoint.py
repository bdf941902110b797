"""A checkpoint on disk: whole or refused, never executed; the one before is taken."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hnm.engine.checkpoint import (
    MANIFEST,
    PROGRESS,
    WEIGHTS,
    BadCheckpoint,
    check,
    digest,
    latest_whole,
    list_checkpoints,
    read_progress,
    seal,
    settings_digest,
    step_folder,
    sweep,
    temporary_folder,
    write_progress,
)
from hnm.engine.step import Progress
from tests.tiny import tiny_config

OF = {"cohort": "abc", "seed": 0, "phase": "finetune", "round": 1}
PROGRESSED = Progress(
    "finetune", 1, 4, 7, 15, {"negative": (0.1 + 0.2, 3)}, 1 / 3, {"a.weight": torch.arange(6.0).view(2, 3)}
)


def written(folder: Path, num_steps: int, keep: int = 2) -> Path:
    temporary, final = temporary_folder(folder, num_steps), step_folder(folder, num_steps)
    temporary.mkdir(parents=True)
    (temporary / "weights.safetensors").write_bytes(b"weights of step %d" % num_steps)
    write_progress(temporary, PROGRESSED)
    seal(temporary, final, OF, keep)
    return final


def test_progress_comes_back_to_the_bit(tmp_path: Path) -> None:
    folder = written(tmp_path, 15)
    assert {path.name for path in folder.iterdir()} == {"weights.safetensors", PROGRESS, WEIGHTS["best"], MANIFEST}
    progress = Progress("finetune", 1)
    read_progress(folder, progress)
    best, expected = progress.best.pop("a.weight"), {**vars(PROGRESSED), "best": {}}
    assert vars(progress) == expected
    assert torch.equal(best, PROGRESSED.best["a.weight"])


def test_the_last_ones_are_kept_and_numbers_are_not_names(tmp_path: Path) -> None:
    for num_steps in (9, 10, 999_999, 1_000_000):
        written(tmp_path, num_steps, keep=3)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-1000000", "step-999999", "step-000010"]


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[5] ^= 1
    (folder / "weights.safetensors").write_bytes(content)


def of_another_seed(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "of": {**OF, "seed": 1}}))


def of_a_later_format(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format": 2}))


def pointing_elsewhere(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    name = f"../{folder.name}/{PROGRESS}"
    (folder / MANIFEST).write_text(json.dumps({**manifest, "files": {**manifest["files"], name: manifest["files"][PROGRESS]}}))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "bit": (flip_a_bit, r"weights\.safetensors is damaged \(its checksum differs\)"),
    "short": (lambda f: os.truncate(f / "weights.safetensors", 7), r"weights\.safetensors has 7 bytes instead of 18"),
    "file missing": (lambda f: (f / PROGRESS).unlink(), r"progress\.json is missing"),
    "manifest missing": (lambda f: (f / MANIFEST).unlink(), r"its manifest\.json cannot be read \(FileNotFoundError\)"),
    "manifest half": (lambda f: os.truncate(f / MANIFEST, 50), r"its manifest\.json cannot be read \(JSONDecodeError\)"),
    "manifest a pickle": (lambda f: (f / MANIFEST).write_bytes(pickle.dumps({"format": 1})), "cannot be read"),
    "another run": (of_another_seed, r"it belongs to something else \(seed differ\)"),
    "format": (of_a_later_format, "its format is 2, not 1"),
    "path": (pointing_elsewhere, "is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_checkpoint_is_told_and_the_one_before_is_taken(tmp_path: Path, damage: str) -> None:
    damage_it, reason = DAMAGES[damage]
    before, last = written(tmp_path, 15), written(tmp_path, 20)
    check(last, OF)
    damage_it(last)
    with pytest.raises(BadCheckpoint, match=reason):
        check(last, OF)
    told: list[str] = []
    assert latest_whole(tmp_path, OF, told.append) == before
    assert len(told) == 1
    assert str(last) in told[0]
    assert "the checkpoint before it is taken" in told[0]
    assert latest_whole(tmp_path, OF, told.append) == before
    assert len(told) == 1  # put aside: said once, and not among those kept
    written(tmp_path, 20)
    assert latest_whole(tmp_path, OF, told.append) == last


def test_without_a_whole_checkpoint_there_is_none(tmp_path: Path) -> None:
    flip_a_bit(written(tmp_path, 15))
    temporary_folder(tmp_path, 20).mkdir()  # killed while it was written
    assert latest_whole(tmp_path, OF, lambda text: None) is None
    assert latest_whole(tmp_path / "never", OF, lambda text: None) is None


def test_checkpoints_go_when_the_file_of_their_phase_stands(tmp_path: Path) -> None:
    for name in ("encoder-start", "round-000/encoder", "round-000/aggregator"):
        written(tmp_path / name, 3)
    (tmp_path / "round-000" / "encoder.safetensors").touch()
    (tmp_path / "encoder-start.safetensors").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.safetensors").touch()
    (tmp_path / "mine" / "notes.txt").touch()
    sweep(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_dir()}
    assert left == {"round-000", "round-000/aggregator", "round-000/aggregator/step-000003", "mine"}


def test_settings_have_a_name(tmp_path: Path) -> None:
    config = tiny_config()
    assert settings_digest(config) == settings_digest(tiny_config()) != settings_digest(tiny_config("finetune.lr=0.5"))
    (tmp_path / "x").write_bytes(b"abc")
    assert digest(tmp_path / "x").startswith("ba7816bf8f01cfea")  # FIPS 180-2's example
    shutil.rmtree(tmp_path)
