"""Copies of the shards on each node's own disk, for clusters whose shared file system is slow at many small reads.

    cohort/shards/*.tar ──one process a node, at the start of the job──▶ $TMPDIR/hnm/<cohort fingerprint>/*.tar ──▶ PatchReader

A copy gets its name when its bytes are on the disk (fsync, which tells what the disk refuses), so that a job that was killed
in the middle goes on with the shards that are missing. What could not be copied is read from where it was: the bytes are the
same. A copy is not read back: it would double the disk's work, and the cohort's own shards are not checked at each start either
(`hnm check`).

While one process of a node copies, in a thread, all ranks meet every second in a short collective. So staging may take
longer than the ranks wait for each other (timeout.start_s), a rank that dies meanwhile is noticed, and a stop is obeyed.
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from hnm.engine.ranks import World, sum_over_ranks
from hnm.run.journal import Journal
from shards.claim import Waiting, claimed
from shards.cohort.cohort import Cohort
from shards.files import whole_file

CHUNK_BYTES = 8 << 20
NUM_COPIES = 4  # at once: one stream does not fill a parallel file system's line
POLL_S = 0.5
MEET_EVERY_S = 1.0


@dataclass(frozen=True)
class Staged:
    """What was done on one node."""

    num_copied: int
    num_there: int
    nbytes: int


@dataclass
class Copying:
    """How far the copying is, for those who wait, and whether it is to end.

    Attributes:
        num_done: shards whose copy is there.
        stopping: set: it ends at once, without a half copy.
    """

    num_done: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)


def stage(
    cohort: Cohort, slides: np.ndarray, stage_dir: Path, journal: Journal, stop_if_asked: Callable[[], None] = lambda: None
) -> Path:
    """Copy the shards of some slides to the node's own disk, and return the folder of the copies. Every rank must call it.

    A node without room, or with a disk that fails, says so and reads from the cohort's folder instead.

    Args:
        cohort: whose shards.
        slides: (k,) row numbers of the slides that will be read.
        stage_dir: on the node's disk; may hold variables such as $TMPDIR.
        journal: of this rank: the process with local rank 0 copies, the others of its node wait.
        stop_if_asked: ends the run on all ranks if one was asked to stop; called on all ranks at the same time.
    """
    folder = Path(os.path.expandvars(stage_dir)) / cohort.fingerprint
    bounds = cohort.patch_bounds  # slide by slide: 10^8 patches at once would be gigabytes for a moment
    of_slides = [np.unique(cohort.patches.shard[bounds[slide] : bounds[slide + 1]]) for slide in slides]
    needed = np.unique(np.concatenate(of_slides))
    sources, copying = [cohort.shard_path(int(shard)) for shard in needed], Copying()
    with ThreadPoolExecutor(1, "stage") as pool:
        job = pool.submit(_copy_and_say, sources, folder, copying) if journal.world.local_rank == 0 else None
        try:
            turns = _until_all_are_done(job, copying, journal.world, stop_if_asked)
            for _ in journal.progress(turns, "copying shards to the node's own disk", len(sources)):
                pass
        finally:
            copying.stopping.set()
    if job is not None:
        job.result()  # raises what is no failure of the disk
    return folder


def _until_all_are_done(
    job: "Future[None] | None", copying: Copying, world: World, stop_if_asked: Callable[[], None]
) -> Iterator[int]:
    """Yield the number of each shard that this process has copied, until all nodes have theirs."""
    told, pause_s = 0, MEET_EVERY_S / 32
    while True:
        at_work = torch.tensor([int(job is not None and not job.done())])  # looked at first: the last ones are told below
        while told < copying.num_done:
            told += 1
            yield told
        if not int(sum_over_ranks(at_work, world)):
            return
        stop_if_asked()
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, MEET_EVERY_S)


def _copy_and_say(sources: Sequence[Path], folder: Path, copying: Copying) -> None:
    begin = time.monotonic()
    try:
        done = copy_shards(sources, folder, copying)
    except OSError as error:
        if not copying.stopping.is_set():
            where = f"Shards are read from {sources[0].parent}"
            print(f"warning: {folder}: {error}. {where}", file=sys.stderr, flush=True)
        return
    said = f"{done.num_copied} shards copied ({done.nbytes / 1e9:.2f} GB), {done.num_there} were there"
    print(f"{folder}: {said}, {time.monotonic() - begin:.1f} s", flush=True)


def copy_shards(sources: Sequence[Path], folder: Path, copying: Copying) -> Staged:
    """Copy files into `folder`, those that are not there already; a second process waits for the first.

    Raises:
        OSError: there is no room, the disk fails, or it is to end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, waiting = folder / "locks" / "stage.lock", Waiting(f"{folder}: copies of shards")
    while True:
        with claimed(lock) as claim:
            if claim is not None:
                return _copy_missing(sources, folder, copying)
        waiting.tell(lock)
        if copying.stopping.wait(POLL_S):
            raise InterruptedError("asked to stop")


def _copy_missing(sources: Sequence[Path], folder: Path, copying: Copying) -> Staged:
    for leftover in folder.glob(".*.tmp"):  # of a process that was killed: nobody else is here
        leftover.unlink()
    missing = [source for source in sources if not _is_copy(folder / source.name, source)]
    for source in missing:  # a copy that is cut must not be read, also if there is no room for a whole one
        (folder / source.name).unlink(missing_ok=True)
    copying.num_done = len(sources) - len(missing)
    nbytes = sum(source.stat().st_size for source in missing)
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise OSError(f"no room: {nbytes / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free")
    with ThreadPoolExecutor(NUM_COPIES, "copy") as pool:
        for _ in pool.map(lambda source: _copy(source, folder / source.name, copying.stopping), missing):
            copying.num_done += 1
    return Staged(len(missing), len(sources) - len(missing), nbytes)


def _is_copy(path: Path, source: Path) -> bool:
    return path.is_file() and path.stat().st_size == source.stat().st_size


def _copy(source: Path, target: Path, stopping: threading.Event) -> None:
    """Copy one file, whole or not at all; whole_file lets the disk confirm it."""
    with whole_file(target) as temporary, open(source, "rb") as reading, open(temporary, "wb") as writing:
        while chunk := reading.read(CHUNK_BYTES):
            if stopping.is_set():
                raise InterruptedError("asked to stop")
            writing.write(chunk)
