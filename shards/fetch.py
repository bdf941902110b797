"""Bytes of shards by offset: neighbouring patches become one range, and ranges are read from local files.

    Wanted (shard, offset, nbytes) ──coalesce──▶ Ranges (shard, start, stop) ──LocalShards.read──▶ Fetched by patch

Offsets in, bytes out: nothing here knows what an image is.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from shards.cohort import Patches

MISSING = "the shard is missing"

# Reading 16 KiB too much costs less than another system call on a network file system.
_MAX_GAP = 16 << 10
# Bounds the bytes that one thread holds.
_MAX_RANGE = 4 << 20


@dataclass(frozen=True)
class Wanted:
    """n patches whose bytes are wanted: (n,) integer arrays, in any order, repeats allowed."""

    ids: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    nbytes: np.ndarray

    @classmethod
    def of(cls, patches: Patches, ids: np.ndarray) -> Self:
        """Look `ids` (n,) up in the patch table."""
        return cls(ids, patches.shard[ids], patches.offset[ids], patches.nbytes[ids])

    def take(self, places: np.ndarray) -> "Wanted":
        """Return the patches at some places of these arrays."""
        return Wanted(self.ids[places], self.shard[places], self.offset[places], self.nbytes[places])


class Fetched(NamedTuple):
    """One patch's bytes; where `problem` is not empty it says why they are not whole.

    `place` is the patch's position in the arrays of `Wanted`.
    """

    place: int
    data: memoryview
    problem: str


@dataclass(frozen=True)
class Ranges:
    """R byte ranges that together hold n patches, as lists because they are walked through one by one.

    Attributes:
        shard: (R,) index of the shard.
        start: (R,) first byte.
        stop: (R,) byte after the last.
        first: (R + 1,): range r holds the patches first[r] to first[r + 1] of the next three.
        place: (n,) the patch's position in `Wanted`.
        begin: (n,) its first byte, counted from the start of its range.
        end: (n,) the byte after its last, counted likewise.
    """

    shard: list[int]
    start: list[int]
    stop: list[int]
    first: list[int]
    place: list[int]
    begin: list[int]
    end: list[int]

    def cut(self, number: int, data: bytes | memoryview, problem: str) -> Iterator[Fetched]:
        """Yield the patches of range `number` out of its bytes; those that reach beyond the bytes get the `problem`."""
        view = memoryview(data)
        for patch in range(self.first[number], self.first[number + 1]):
            begin, end = self.begin[patch], self.end[patch]
            yield Fetched(self.place[patch], view[begin:end], "" if end <= len(view) else problem)


def coalesce(wanted: Wanted, max_gap: int, max_bytes: int) -> Ranges:
    """Merge patches that lie close together in a shard into ranges that are read at once.

    Args:
        wanted: the patches.
        max_gap: bytes between two patches that are read and thrown away rather than begin another range.
        max_bytes: a range ends before it spans much more than this many bytes.

    Returns:
        The ranges, by shard and offset.
    """
    order = np.lexsort((wanted.offset, wanted.shard))
    shard, start = wanted.shard[order], wanted.offset[order].astype(np.int64)
    stop = start + wanted.nbytes[order]
    is_first = np.ones(len(order), dtype=bool)
    # The cells of a max_bytes grid bound the length of a range without a loop over patches.
    other_cell = start[1:] // max_bytes != start[:-1] // max_bytes
    is_first[1:] = (shard[1:] != shard[:-1]) | (start[1:] - stop[:-1] > max_gap) | other_cell
    first = np.flatnonzero(is_first)
    range_start = start[first]
    # In a table that overlaps itself (a wrong one) the last patch of a range need not reach furthest.
    range_stop = np.maximum.reduceat(stop, first) if len(first) else stop
    base = np.repeat(range_start, np.diff(first, append=len(order)))
    return Ranges(
        shard=shard[first].tolist(),
        start=range_start.tolist(),
        stop=range_stop.tolist(),
        first=[*first.tolist(), len(order)],
        place=order.tolist(),
        begin=(start - base).tolist(),
        end=(stop - base).tolist(),
    )


class LocalShards:
    """Shard files on a local or network file system, read by pread through a bounded number of open handles.

    pread and not mmap: a mapped file that is cut short kills the process by SIGBUS, and page faults on a network file
    system read in small pieces. Threads may share one object.
    """

    def __init__(self, paths: list[Path], max_open_files: int) -> None:
        self._paths = paths
        self._max_open_files = max_open_files
        self._lock = threading.Lock()
        self._handles: OrderedDict[int, _Handle] = OrderedDict()  # least recently used first

    def read(self, wanted: Wanted) -> Iterator[Fetched]:
        """Yield each patch's bytes, by shard and offset; a range is read when its first patch is asked for.

        Raises:
            OSError: the file system failed (a missing or short file is no exception but a `Fetched.problem`).
        """
        ranges = coalesce(wanted, _MAX_GAP, _MAX_RANGE)
        number = 0
        while number < len(ranges.shard):
            after = number + 1
            while after < len(ranges.shard) and ranges.shard[after] == ranges.shard[number]:
                after += 1
            yield from self._read_shard(ranges, range(number, after))
            number = after

    def close(self) -> None:
        """Close the open handles; a later read opens them again."""
        with self._lock:
            for handle in self._handles.values():
                os.close(handle.descriptor)
            self._handles.clear()

    def _read_shard(self, ranges: Ranges, numbers: range) -> Iterator[Fetched]:
        try:
            with self._opened(ranges.shard[numbers[0]]) as descriptor:
                for number in numbers:
                    start = ranges.start[number]
                    data = _pread_all(descriptor, ranges.stop[number] - start, start)
                    yield from ranges.cut(number, data, f"the shard is cut short at byte {start + len(data)}")
        except FileNotFoundError:
            for number in numbers:
                yield from ranges.cut(number, b"", MISSING)

    @contextmanager
    def _opened(self, shard: int) -> Iterator[int]:
        """Yield a descriptor that no other thread closes while it is in use."""
        with self._lock:
            handle = self._handles.pop(shard, None) or _Handle(os.open(self._paths[shard], os.O_RDONLY))
            self._handles[shard] = handle
            handle.num_users += 1
            self._close_oldest()
        try:
            yield handle.descriptor
        finally:
            with self._lock:
                handle.num_users -= 1

    def _close_oldest(self) -> None:
        while len(self._handles) > self._max_open_files:
            idle = next((shard for shard, handle in self._handles.items() if not handle.num_users), None)
            if idle is None:
                return
            os.close(self._handles.pop(idle).descriptor)


@dataclass
class _Handle:
    descriptor: int
    num_users: int = 0


def _pread_all(descriptor: int, nbytes: int, offset: int) -> bytes:
    """Read `nbytes` at `offset`, fewer only at the end of the file (one call may return less, as at 2 GB)."""
    data = os.pread(descriptor, nbytes, offset)
    while len(data) < nbytes:
        more = os.pread(descriptor, nbytes - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
