"""shards.reading.fetch: ranges hold every patch, neighbours are read at once, few handles stay open."""

import os
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.cohort.cohort import Cohort
from shards.reading.fetch import MISSING, LocalShards, Wanted, coalesce

MakeCohort = Callable[..., Cohort]


def wanted_of(rows: list[tuple[int, int, int]]) -> Wanted:
    shard, offset, nbytes = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return Wanted(np.arange(len(rows)), shard, offset, nbytes)


def test_coalesce_by_hand() -> None:
    wanted = wanted_of([(1, 0, 10), (0, 100, 50), (0, 0, 40), (0, 60, 30), (0, 500, 5)])
    ranges = coalesce(wanted, max_gap=20, max_bytes=1000)
    assert (ranges.shard, ranges.start, ranges.stop) == ([0, 0, 1], [0, 500, 0], [150, 505, 10])
    assert ranges.first == [0, 3, 4, 5]
    assert (ranges.place, ranges.begin, ranges.end) == ([2, 3, 1, 4, 0], [0, 60, 100, 0, 0], [40, 90, 150, 5, 10])


def test_nothing_wanted_is_no_range() -> None:
    assert coalesce(wanted_of([]), 10, 10).shard == []


ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 900), st.integers(1, 100)), max_size=40)


@given(rows=ROWS, max_gap=st.integers(0, 200), max_bytes=st.integers(1, 2000))
def test_ranges_hold_every_patch_whole(rows: list[tuple[int, int, int]], max_gap: int, max_bytes: int) -> None:
    wanted = wanted_of(rows)
    content = np.random.default_rng(0).bytes(1000)
    ranges = coalesce(wanted, max_gap, max_bytes)
    found = {}
    for number, (start, stop) in enumerate(zip(ranges.start, ranges.stop, strict=True)):
        for place, data, problem in ranges.cut(number, content[start:stop], "short"):
            assert not problem
            assert ranges.shard[number] == wanted.shard[place]
            found[place] = bytes(data)
    assert found == {n: content[offset : offset + nbytes] for n, (_, offset, nbytes) in enumerate(rows)}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{n}.tar" for n in range(5)]
    for n, path in enumerate(paths):
        path.write_bytes(bytes([n]) * 100_000)
    return paths


def held_of(folder: Path) -> int:
    """Open files of this process under `folder`: what other tests hold open does not count."""
    handles = [os.path.realpath(f"/proc/self/fd/{handle}") for handle in os.listdir("/proc/self/fd")]
    return sum(path.startswith(f"{folder}/") for path in handles)


def test_handles_stay_bounded_and_are_closed(files: list[Path]) -> None:
    shards = LocalShards(files, max_open_files=2)
    wanted = wanted_of([(n % 5, 10 * n, 7) for n in range(50)])
    assert all(data == bytes([wanted.shard[place]]) * 7 for place, data, _ in chain.from_iterable(shards.read(wanted)))
    assert 1 <= held_of(files[0].parent) <= 2
    shards.close()
    assert held_of(files[0].parent) == 0


def test_a_handle_in_use_is_not_closed(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    shards = LocalShards(files, max_open_files=1)
    pread, depth = os.pread, []

    def meanwhile_others_are_read(descriptor: int, nbytes: int, offset: int) -> bytes:
        if not depth:
            depth.append(1)
            assert len(list(shards.read(wanted_of([(1, 0, 5), (2, 0, 5)])))) == 2
        return pread(descriptor, nbytes, offset)

    monkeypatch.setattr(os, "pread", meanwhile_others_are_read)
    (fetched,) = shards.read(wanted_of([(0, 0, 5), (0, 99_000, 100)]))
    assert [(bytes(data), problem) for _, data, problem in fetched] == [(bytes(5), ""), (bytes(100), "")]
    assert depth


@given(rows=ROWS, max_bytes=st.integers(1, 500))
def test_runs_are_all_ranges_in_order_a_shard_at_a_time(rows: list[tuple[int, int, int]], max_bytes: int) -> None:
    ranges = coalesce(wanted_of(rows), 0, 1000)
    runs = list(ranges.runs(max_bytes))
    assert [number for first, after in runs for number in range(first, after)] == list(range(len(ranges.shard)))
    for first, after in runs:
        assert first < after
        assert len(set(ranges.shard[first:after])) == 1
        assert sum(ranges.stop[n] - ranges.start[n] for n in range(first, after - 1)) < max_bytes


def test_missing_and_short_files_are_problems_of_their_patches(files: list[Path]) -> None:
    files[1].unlink()
    os.truncate(files[2], 100)
    wanted = wanted_of([(0, 0, 5), (1, 0, 5), (2, 90, 10), (2, 95, 10), (3, 990, 10)])
    fetched = chain.from_iterable(LocalShards(files, 4).read(wanted))
    assert [problem for _, _, problem in fetched] == ["", MISSING, "", "the shard is cut short at byte 100", ""]


def test_other_file_system_errors_are_raised(files: list[Path]) -> None:
    files[0].unlink()
    files[0].mkdir()
    with pytest.raises(IsADirectoryError):
        list(LocalShards(files, 4).read(wanted_of([(0, 0, 5)])))
