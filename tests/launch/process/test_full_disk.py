"""A disk that is full in the middle of a run: a sentence that names the file, nothing half left; with room the run goes on."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import assert_refused, hnm
from tests.tiny import TINY, results_of


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, whose size can be changed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root, to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def give(folder: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(folder)], check=True)


def test_a_run_on_a_disk_that_may_not_be_written_is_not_told_to_make_room(
    small_disk: Path, finished_run: Path, tiny_cohort: Path
) -> None:
    run = small_disk / "run"
    shutil.copytree(finished_run, run)
    (run / "round-002" / "mining.json").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused = hnm("train", tiny_cohort, run, "--ranks", "1", *TINY)
    assert_refused(refused, 1, f"error: {run}/", "Read-only file system", "Give yourself the right to write there")
    assert "make room" not in refused.output


@pytest.mark.slow
def test_every_file_that_does_not_fit_is_named_and_the_run_goes_on(
    small_disk: Path, finished_run: Path, tiny_cohort: Path
) -> None:
    run = small_disk / "run"
    train = ("train", tiny_cohort, run, "--preset", "hnm", "--ranks", "1", *TINY)
    named = set()
    for kilobytes in (400, 1000, 1800):  # full in one phase after the other
        give(small_disk, kilobytes)
        done = hnm(*train)
        assert done.exit_code == 1, done.output
        assert "Traceback" not in done.stderr
        (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert "No space left on device" in error
        assert f"error: {run}/" in error  # the file, not "a file of the run"
        named.add(error.split(":")[1])
        assert list(run.rglob(".*.tmp")) == []
    assert len(named) > 1
    give(small_disk, 64_000)
    done = hnm(*train)
    assert done.exit_code == 0, done.stderr
    ours, theirs = results_of(run), results_of(finished_run)
    assert ours.keys() == theirs.keys()
    shutil.rmtree(run)


@pytest.mark.slow
def test_a_page_that_does_not_fit_is_named_and_evaluate_goes_on_there(small_disk: Path, finished_run: Path) -> None:
    run = small_disk / "run"
    shutil.copytree(finished_run, run)
    used_kb = shutil.disk_usage(small_disk).used // 1024
    for free_kb in (8, 1100):  # features of test slides; the page, whose pictures are there
        give(small_disk, used_kb + free_kb)
        done = hnm("evaluate", run)
        assert done.exit_code == 1, done.output
        assert "Traceback" not in done.stderr
        (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert "No space left on device. What was whole before stays; make room, and the same command goes on there" in error
        assert f"error: {run}/{'' if free_kb == 8 else 'report.html: '}" in error
        assert list(run.rglob(".*.tmp")) == []
    give(small_disk, 64_000)
    done = hnm("evaluate", run)
    assert done.exit_code == 0, done.stderr
    assert (run / "report.html").is_file()
    assert (run / "model" / "model.json").is_file()
