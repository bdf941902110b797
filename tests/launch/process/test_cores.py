"""Cores of a job or a container, not of the machine."""

import os
from pathlib import Path

import pytest

from launch.process.cores import cgroup_cores, threads_of_rank, usable_cores


def make_cgroups(folder: Path, limits: dict[str, str]) -> tuple[Path, Path]:
    """Write a cgroup v2 tree with these cpu.max files, and what /proc says of a process in job/step."""
    root = folder / "cgroup"
    (root / "job" / "step").mkdir(parents=True)
    for name, text in limits.items():
        (root / name / "cpu.max").write_text(f"{text}\n")
    (folder / "own").write_text("4:memory:/elsewhere\n0::/job/step\n")
    line = f"41 31 0:38 / {root} rw,relatime - cgroup2 cgroup rw\n"
    (folder / "mounts").write_text(f"27 1 254:0 / / rw - ext4 /dev/vda rw\n{line}")
    return folder / "own", folder / "mounts"


@pytest.mark.parametrize(
    ("limits", "cores"),
    [
        ({}, None),
        ({"job/step": "max 100000"}, None),
        ({"job/step": "150000 100000"}, 2),
        ({"job/step": "max 100000", "job": "400000 100000"}, 4),  # what is above counts, too
        ({"job/step": "800000 100000", "job": "400000 100000", "": "300000 100000"}, 3),
    ],
)
def test_the_tightest_limit_above_the_process_counts(limits: dict[str, str], cores: int | None, tmp_path: Path) -> None:
    assert cgroup_cores(*make_cgroups(tmp_path, limits)) == cores


def test_without_cgroup_v2_there_is_no_limit(tmp_path: Path) -> None:
    own, mounts = make_cgroups(tmp_path, {"job/step": "100000 100000"})
    mounts.write_text("27 1 254:0 / / rw - ext4 /dev/vda rw\n")
    assert cgroup_cores(own, mounts) is None
    assert cgroup_cores(tmp_path / "none", mounts) is None


def test_a_process_that_may_run_on_one_core_has_one() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= usable_cores() <= len(before)


@pytest.mark.parametrize(
    ("usable", "on_node", "ranks", "threads"),
    [
        (64, 64, 1, 64),
        (64, 64, 8, 8),  # nobody is bound: a share each
        (8, 64, 8, 8),  # each is bound to its own
        (8, 8, 4, 2),  # a job of 8 cores, its tasks unbound
        (64, 8, 4, 2),  # a cluster that binds nothing
        (2, 2, 3, 1),
    ],
)
def test_threads_are_divided_by_the_ranks_that_share_cores(usable: int, on_node: int, ranks: int, threads: int) -> None:
    assert threads_of_rank(usable, on_node, ranks) == threads
