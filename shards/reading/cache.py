"""Remote patches kept on a local disk, up to a size limit: a sparse mirror of each shard, and a checksum per patch.

    <folder>/<cohort fingerprint>/checksums.u32   (N,) uint32 CRC of each patch's bytes, 0 = not here
                                  <shard>.tar     the fetched bytes, at the same offsets as in the remote shard

A few files however many patches there are. Processes of one machine share a folder without locks: bytes are
written before their checksum, a shard leaves by being cut to nothing, and bytes that do not fit their checksum are
not here.
"""

import os
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from shards.reading.fetch import Fetched, LocalShards, Ranges, Wanted

# The folder is measured again after each 1 % of the limit, and then cut to 90 %: ten writers stay below the limit.
_MEASURE_EVERY = 0.01
_CUT_TO = 0.9


class ShardCache:
    """The cached patches of one cohort. Threads and processes may share its folder."""

    def __init__(
        self, folder: Path, shard_names: list[str], num_patches: int, max_bytes: float, max_open_files: int
    ) -> None:
        """Make or reopen the cache in `folder`, which belongs to one cohort of `num_patches` patches."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._paths = [folder / name for name in shard_names]
        self._files = LocalShards(self._paths, max_open_files)
        self._max_bytes = max_bytes
        self._written = 0
        checksums = folder / "checksums.u32"
        with open(checksums, "ab") as file:  # a sparse file: absent parts read as 0
            file.truncate(max(num_patches, 1) * 4)
        self._checksums = np.memmap(checksums, dtype=np.uint32, mode="r+")
        self._shrink()

    def read(self, wanted: Wanted) -> Iterator[Fetched]:
        """Yield the patches that are here, with their place in `wanted`."""
        places = np.flatnonzero(self._checksums[wanted.ids])
        expected = self._checksums[wanted.ids[places]].tolist()
        for place, data, problem in chain.from_iterable(self._files.read(wanted.take(places))):
            if not problem and _checksum(data) == expected[place]:
                yield int(places[place]), data, ""

    def store(self, wanted: Wanted, ranges: Ranges, number: int, data: bytes) -> None:
        """Keep the bytes of one fetched range, and with them its patches."""
        descriptor = os.open(self._paths[ranges.shard[number]], os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.pwrite(descriptor, data, ranges.start[number])
        finally:
            os.close(descriptor)
        for place, patch, problem in ranges.cut(number, data, "cut short"):
            if not problem:
                self._checksums[wanted.ids[place]] = _checksum(patch)
        self._written += len(data)
        if self._written > _MEASURE_EVERY * self._max_bytes:
            self._written = 0
            self._shrink()

    def close(self) -> None:
        """Close the open files."""
        self._files.close()

    def _shrink(self) -> None:
        """Empty the shards that were written longest ago until the folder is well below its limit.

        Emptied and not unlinked: other processes hold them open, and would go on filling a file without a name.
        """
        stats = [(path.stat(), path) for path in self._paths if path.exists()]
        num_bytes = sum(stat.st_blocks * 512 for stat, _ in stats)
        for stat, path in sorted(stats, key=lambda item: item[0].st_mtime_ns):
            if num_bytes <= self._max_bytes * _CUT_TO:
                return
            num_bytes -= stat.st_blocks * 512
            os.truncate(path, 0)


def _checksum(data: bytes | memoryview) -> int:
    return zlib.crc32(data) or 1  # 0 says that a patch is not here
