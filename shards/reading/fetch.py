"""Bytes of shards by offset: neighbouring patches become one range, and ranges are read from local files.

    Wanted (shard, offset, nbytes) ──coalesce──▶ Ranges (shard, start, stop) ──LocalShards.read──▶ Fetched by patch

Offsets in, bytes out: nothing here knows what an image is.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from shards.cohort.cohort import Patches

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


# One patch: its place in the arrays of `Wanted`, its bytes, and "" or why they are not whole.
Fetched = tuple[int, bytes | memoryview, str]


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

    def cut(self, number: int, data: bytes, problem: str) -> list[Fetched]:
        """Return the patches of range `number` out of its bytes; those that reach beyond them get the `problem`."""
        first, after = self.first[number], self.first[number + 1]
        if after - first == 1:  # the common case of a random draw, kept short: see LocalShards.read
            return [(self.place[first], data, problem if len(data) < self.end[first] else "")]
        view = memoryview(data)
        return [
            (place, view[begin:end], "" if end <= len(view) else problem)
            for place, begin, end in zip(
                self.place[first:after], self.begin[first:after], self.end[first:after], strict=True
            )
        ]

    def runs(self, max_bytes: int) -> Iterator[tuple[int, int]]:
        """Yield (first, after) of consecutive ranges that lie in one shard and together have not much over `max_bytes`."""
        first = num_bytes = 0
        for number, shard in enumerate(self.shard):
            if number > first and (num_bytes >= max_bytes or shard != self.shard[first]):
                yield first, number
                first, num_bytes = number, 0
            num_bytes += self.stop[number] - self.start[number]
        if self.shard:
            yield first, len(self.shard)


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

    def read(self, wanted: Wanted) -> Iterator[list[Fetched]]:
        """Yield the patches, by shard and offset, a few MB at a time, each time read when it is asked for.

        Lists and plain tuples, little Python per range, and reading apart from decoding: a patch of 96 px decodes in
        60 us, and threads that change between the two hand the interpreter's lock to and fro twice as often.

        Raises:
            OSError: the file system failed (a missing or short file is no exception but a problem of its patches).
        """
        ranges = coalesce(wanted, _MAX_GAP, _MAX_RANGE)
        for first, after in ranges.runs(_MAX_RANGE):
            handle = self._acquire(ranges.shard[first])
            try:
                fetched = _read_run(handle.descriptor, ranges, first, after)
            finally:
                self._release(handle)
            yield fetched

    def close(self) -> None:
        """Close the open handles; a later read opens them again."""
        with self._lock:
            for handle in self._handles.values():
                handle.close()
            self._handles.clear()

    def _acquire(self, shard: int) -> "_Handle":
        """Return a handle that no other thread closes while it is in use, without a descriptor for a missing file."""
        with self._lock:
            handle = self._handles.pop(shard, None)
            if handle is None:
                try:
                    handle = _Handle(shard, os.open(self._paths[shard], os.O_RDONLY))
                except FileNotFoundError:
                    return _Handle(shard, None)
            self._handles[shard] = handle
            handle.num_users += 1
            self._close_oldest()
            return handle

    def _release(self, handle: "_Handle") -> None:
        with self._lock:
            handle.num_users -= 1
            self._close_oldest()  # more than the bound were open while more were in use

    def _close_oldest(self) -> None:
        while len(self._handles) > self._max_open_files:
            idle = next((handle for handle in self._handles.values() if not handle.num_users), None)
            if idle is None:
                return
            del self._handles[idle.shard]
            idle.close()


@dataclass
class _Handle:
    """An open shard, or None for one that is missing."""

    shard: int
    descriptor: int | None
    num_users: int = 0

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)


def _read_run(descriptor: int | None, ranges: Ranges, first: int, after: int) -> list[Fetched]:
    """Return the patches of some ranges of the shard open at `descriptor` (None: it is missing)."""
    fetched: list[Fetched] = []
    if descriptor is None:
        for number in range(first, after):
            fetched += ranges.cut(number, b"", MISSING)
        return fetched
    starts, stops = ranges.start[first:after], ranges.stop[first:after]
    data_of_range = [os.pread(descriptor, stop - start, start) for start, stop in zip(starts, stops, strict=True)]
    for number, start, stop, data in zip(range(first, after), starts, stops, data_of_range, strict=True):
        if len(data) == stop - start:
            fetched += ranges.cut(number, data, "")
        else:
            whole = _read_on(descriptor, data, stop, start)
            fetched += ranges.cut(number, whole, f"the shard is cut short at byte {start + len(whole)}")
    return fetched


def _read_on(descriptor: int, data: bytes, stop: int, start: int) -> bytes:
    """Return `data`, read at `start`, and what follows it up to `stop`: one call may return less, as at 2 GB."""
    while len(data) < stop - start:
        more = os.pread(descriptor, stop - start - len(data), start + len(data))
        if not more:
            break
        data += more
    return data
