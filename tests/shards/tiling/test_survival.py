"""Kill, resume and compete: the cohort is the same bytes. The run with 20 kills is benchmarks/tiling_survival.py."""

import random
import signal
import time
from pathlib import Path

import pytest

from benchmarks.tiling_survival import CONFIG, digests, start_tiling, twelve_slides
from shards.tiling.tile import tile_cohort


@pytest.fixture(scope="module")
def slides_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return twelve_slides(tmp_path_factory.mktemp("twelve"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, slides_csv: Path) -> dict[str, str]:
    cohort = tmp_path_factory.mktemp("undisturbed") / "cohort"
    summary = tile_cohort(slides_csv, cohort, CONFIG)
    assert (summary.num_done, summary.num_tiled) == (12, 12)
    return digests(cohort)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_killed_and_resumed_is_undisturbed(
    tmp_path: Path, slides_csv: Path, undisturbed: dict[str, str], num_workers: int
) -> None:
    cohort, chance = tmp_path / "cohort", random.Random(num_workers)
    for _ in range(3):
        process = start_tiling(slides_csv, cohort, num_workers)
        time.sleep(chance.uniform(0.05, 0.5) + (0.6 if num_workers > 1 else 0.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    summary = tile_cohort(slides_csv, cohort, CONFIG)
    assert summary.num_done == 12
    assert digests(cohort) == undisturbed


def test_ctrl_c_leaves_a_cohort_that_resumes(tmp_path: Path, slides_csv: Path, undisturbed: dict[str, str]) -> None:
    cohort = tmp_path / "cohort"
    process = start_tiling(slides_csv, cohort, 1)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:  # in the middle of a slide: an interrupt in the very release of a claim may leave it
        done, begun = ({path.stem for path in (cohort / folder).glob("slide*")} for folder in ("units", "locks"))
        if done and begun - done:
            break
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) != 0
    assert not list((cohort / "locks").glob("*.json"))  # let go, not left behind
    assert not list((cohort / "tmp").glob("*"))
    assert tile_cohort(slides_csv, cohort, CONFIG).num_tiled <= 12
    assert digests(cohort) == undisturbed


def test_two_processes_share_the_work(tmp_path: Path, slides_csv: Path, undisturbed: dict[str, str]) -> None:
    cohort = tmp_path / "cohort"
    processes = [start_tiling(slides_csv, cohort, 1) for _ in range(2)]
    counts = []
    for process in processes:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        counts.append(int(out))
    assert sum(counts) == 12  # each slide was cut once
    assert digests(cohort) == undisturbed


def test_workers_give_the_same_bytes(tmp_path: Path, slides_csv: Path, undisturbed: dict[str, str]) -> None:
    tile_cohort(slides_csv, tmp_path / "cohort", CONFIG, num_workers=2)
    assert digests(tmp_path / "cohort") == undisturbed
