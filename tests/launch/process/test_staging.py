"""Copies of shards on a node's own disk: one process copies, all read them, and a job that was killed goes on."""

import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from hnm.config import load_config
from hnm.engine.ranks import World, wait_at_most
from hnm.run.journal import Journal
from hnm.run.study import open_study
from launch.process import staging
from launch.process.preemption import Preempted
from launch.process.staging import Copying, Staged, copy_shards, stage
from shards.cohort.cohort import Cohort
from shards.reading.reader import PatchReader, ReaderConfig
from tests.disks import small_disk
from tests.ranks import on_ranks, world_of


def shards_of(cohort: Path) -> list[Path]:
    return sorted((cohort / "shards").glob("*.tar"))


def read_copies(world: World, cohort_folder: Path, stage_dir: Path) -> np.ndarray:
    """Stage the training slides, and read their patches when the cohort's own shards are gone.

    Copying takes longer than the ranks wait for each other.
    """
    cohort = Cohort.open(cohort_folder)
    study = open_study(cohort, load_config().data, 0)
    wait_at_most(3.0, world)
    copy = staging.copy_shards

    def slowly(*arguments: Any) -> Staged:
        time.sleep(4.5)
        return copy(*arguments)

    with patch("launch.process.staging.copy_shards", slowly):
        folder = stage(cohort, study.embedded_slides, stage_dir, Journal(None, world))
    wait_at_most(60.0, world)
    if world.is_main:
        os.rename(cohort_folder / "shards", cohort_folder / "gone")
    while not (cohort_folder / "gone").is_dir():
        pass
    with PatchReader(cohort, ReaderConfig(), copies=folder) as reader:
        return reader.read(study.patches_of(study.embedded_slides)).numpy()


def test_the_ranks_of_a_node_share_one_copy(tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH_OF_NODE", str(tmp_path / "scratch"))
    shutil.copytree(tiny_cohort, tmp_path / "cohort")
    ranks = on_ranks(2, read_copies, tmp_path / "cohort", Path("$SCRATCH_OF_NODE/hnm"))
    cohort = Cohort.open(tiny_cohort)
    study = open_study(cohort, load_config().data, 0)
    with PatchReader(cohort, ReaderConfig()) as reader:
        expected = reader.read(study.patches_of(study.embedded_slides)).numpy()
    for images in ranks:
        assert np.array_equal(images, expected)
    copies = tmp_path / "scratch" / "hnm" / cohort.fingerprint
    needed = {cohort.info["shards"][shard] for shard in np.unique(study.embedded_slides)}  # a shard a slide here
    assert {path.name for path in copies.glob("*.tar")} == needed  # not those of the test slides
    assert len(needed) < len(shards_of(tiny_cohort))


def test_a_killed_copy_goes_on_with_what_is_missing(tiny_cohort: Path, tmp_path: Path) -> None:
    sources, folder = shards_of(tiny_cohort), tmp_path / "copies"
    nbytes = sum(path.stat().st_size for path in sources)
    assert copy_shards(sources, folder, Copying()) == Staged(len(sources), 0, nbytes)
    whole, cut, gone = (folder / path.name for path in sources[:3])
    written = whole.stat().st_mtime_ns
    os.truncate(cut, 100)
    gone.unlink()
    (folder / f".{gone.name}.1.tmp").write_bytes(b"half")
    copying = Copying()
    done = copy_shards(sources, folder, copying)
    assert (done.num_copied, done.num_there) == (2, len(sources) - 2)
    assert whole.stat().st_mtime_ns == written
    for path in sources:
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert not list(folder.glob(".*.tmp"))
    assert copying.num_done == len(sources)


def test_a_stop_is_obeyed_while_shards_are_copied(tiny_cohort: Path, tmp_path: Path) -> None:
    cohort = Cohort.open(tiny_cohort)
    began, asked = threading.Event(), threading.Event()

    def copy_until_asked(sources: object, folder: Path, copying: Copying) -> Staged:
        began.set()
        assert copying.stopping.wait(60)
        asked.set()
        return copy_shards(shards_of(tiny_cohort), folder, copying)  # it gives up at the first chunk

    def stop() -> None:
        assert began.wait(60)
        raise Preempted("asked")

    with patch("launch.process.staging.copy_shards", copy_until_asked), pytest.raises(Preempted):
        stage(cohort, np.arange(cohort.num_slides), tmp_path, Journal(None, world_of(0, 1)), stop)
    assert asked.is_set()
    assert not list((tmp_path / cohort.fingerprint).glob("*.t*"))


def test_a_disk_without_room_is_said_and_the_cohort_is_read(
    tiny_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "small", "32k") as small:
        cohort = Cohort.open(tiny_cohort)
        (small / cohort.fingerprint).mkdir()
        (small / cohort.fingerprint / shards_of(tiny_cohort)[0].name).write_bytes(b"cut")  # which must not be read
        folder = stage(cohort, np.arange(cohort.num_slides), small, Journal(None, world_of(0, 1)))
        said = capsys.readouterr().err
        assert "no room: 0.00 GB are needed" in said
        assert f"Shards are read from {tiny_cohort / 'shards'}" in said
        with PatchReader(cohort, ReaderConfig(), copies=folder) as reader:
            assert reader.read(np.arange(cohort.num_patches)).shape[0] == cohort.num_patches
