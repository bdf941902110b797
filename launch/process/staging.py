"""Copies of the shards on each node's own disk, for clusters whose shared file system is slow at many small reads.

    cohort/shards/*.tar ──one process a node, at the start of the job──▶ $TMPDIR/hnm/<cohort fingerprint>/*.tar ──▶ PatchReader

A copy gets its name when its bytes have been read back and compared, so that a job that was killed in the middle goes on
with the shards that are missing. What could not be copied is read from where it was: the bytes are the same.
"""

import os
import shutil
import sys
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hnm.engine.ranks import World, barrier
from shards.claim import Waiting, claimed
from shards.cohort.cohort import Cohort
from shards.files import whole_file

CHUNK_BYTES = 8 << 20
NUM_COPIES = 4  # at once: one stream does not fill a parallel file system's line
POLL_S = 0.5


@dataclass(frozen=True)
class Staged:
    """What was done on one node."""

    num_copied: int
    num_there: int
    nbytes: int


def stage(cohort: Cohort, slides: np.ndarray, stage_dir: Path, world: World) -> Path:
    """Copy the shards of some slides to the node's own disk, and return the folder of the copies. Every rank must call it.

    A node without room, or with a disk that fails, says so and reads from the cohort's folder instead.

    Args:
        cohort: whose shards.
        slides: (k,) row numbers of the slides that will be read.
        stage_dir: on the node's disk; may hold variables such as $TMPDIR.
        world: the process with local rank 0 copies, the others of its node wait.
    """
    folder = Path(os.path.expandvars(stage_dir)) / cohort.fingerprint
    if world.local_rank == 0:
        needed = np.unique(cohort.patches.shard[np.isin(cohort.patches.slide, slides)])
        begin = time.monotonic()
        try:
            done = copy_shards([cohort.shard_path(int(shard)) for shard in needed], folder)
            said = f"{done.num_copied} shards copied ({done.nbytes / 1e9:.2f} GB), {done.num_there} were there"
            print(f"{folder}: {said}, {time.monotonic() - begin:.1f} s", flush=True)
        except OSError as error:
            print(
                f"warning: {folder}: {error}. Shards are read from {cohort.root / 'shards'}",
                file=sys.stderr,
                flush=True,
            )
    barrier(world)
    return folder


def copy_shards(sources: Sequence[Path], folder: Path) -> Staged:
    """Copy files into `folder`, those that are not there already; a second process waits for the first.

    Raises:
        OSError: there is no room, or a copy is not what was read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, waiting = folder / "locks" / "stage.lock", Waiting(f"{folder}: copies of shards")
    while True:
        with claimed(lock) as claim:
            if claim is not None:
                return _copy_missing(sources, folder)
        waiting.tell(lock)
        time.sleep(POLL_S)


def _copy_missing(sources: Sequence[Path], folder: Path) -> Staged:
    for leftover in folder.glob(".*.tmp"):  # of a process that was killed: nobody else is here
        leftover.unlink()
    missing = [source for source in sources if not _is_copy(folder / source.name, source)]
    nbytes = sum(source.stat().st_size for source in missing)
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise OSError(f"no room: {nbytes / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free")
    with ThreadPoolExecutor(NUM_COPIES, "stage") as pool:
        list(pool.map(lambda source: _copy(source, folder / source.name), missing))
    return Staged(len(missing), len(sources) - len(missing), nbytes)


def _is_copy(path: Path, source: Path) -> bool:
    return path.is_file() and path.stat().st_size == source.stat().st_size


def _copy(source: Path, target: Path) -> None:
    with whole_file(target) as temporary:
        with open(source, "rb") as reading, open(temporary, "wb") as writing:
            checksum = 0
            while chunk := reading.read(CHUNK_BYTES):
                checksum = zlib.crc32(chunk, checksum)
                writing.write(chunk)
            writing.flush()
            os.fsync(writing.fileno())
        if _checksum(temporary) != checksum:
            raise OSError(f"{target}: the copy is not what was read from {source}")


def _checksum(path: Path) -> int:
    """Read a file back from its disk, not from the pages that were just written."""
    checksum = 0
    with open(path, "rb") as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while chunk := file.read(CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
