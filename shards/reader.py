"""Patches by id: only the bytes that the plan asks for are read, and they are decoded straight into the batch.

    plan rows ──▶ [thread: coalesce ▶ pread ▶ decode] ──▶ (ids, images (n, 3, h, w) uint8), in plan order

The future is known (a plan is an array), so the next batches are read while the current one is used.
"""

import os
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from types import TracebackType
from typing import Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from shards.cohort import Cohort
from shards.decode import DecodeError, decode_into, image_shape
from shards.errors import InputError
from shards.fetch import Fetched, LocalShards, coalesce

# Reading 16 KiB too much costs less than another system call on a network file system; a range of at most 4 MiB keeps
# the bytes in flight small.
_MAX_GAP = 16 << 10
_MAX_RANGE = 4 << 20


class ReaderConfig(BaseModel):
    """How patches are read."""

    model_config = ConfigDict(extra="forbid")

    threads: int = Field(
        2, ge=1, description="Threads per rank that read and decode ahead, each a batch of its own; order is kept."
    )
    prefetch_batches: int = Field(
        4, ge=1, description="Batches read ahead of the one in use, per rank; memory grows by one batch for each."
    )
    max_open_files: int = Field(128, ge=1, description="Shard files held open at once, per rank.")


class PatchReader:
    """Reads patches of one cohort by id. Threads may share one object; a forked process opens its own files."""

    def __init__(self, cohort: Cohort, config: ReaderConfig) -> None:
        self._cohort = cohort
        self._config = config
        self._process = os.getpid()
        self._local = self._open_shards()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the open files; reading again opens them again."""
        self._shards.close()

    @cached_property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of the cohort's patches, from the first one's JPEG header.

        Raises:
            InputError: the first patch cannot be read.
        """
        patches = self._cohort.patches.take(np.arange(1))
        ranges = coalesce(patches.shard, patches.offset, patches.nbytes, 0, _MAX_RANGE)
        fetched = next(iter(self._shards.read(ranges)))
        try:
            return image_shape(fetched.data)
        except DecodeError as error:
            raise self._unreadable(0, fetched.problem or str(error)) from error

    def read(self, ids: np.ndarray) -> torch.Tensor:
        """Read and decode patches.

        Args:
            ids: (n,) int64 patch ids, in any order, repeats allowed.

        Returns:
            (n, 3, h, w) uint8 RGB in the order of `ids`, in channels_last memory format (as decoded, not copied).

        Raises:
            InputError: a shard is missing or cut short, or a JPEG does not decode.
        """
        height, width = self.image_shape
        images = np.empty((len(ids), height, width, 3), dtype=np.uint8)
        patches = self._cohort.patches
        shard, offset, nbytes = patches.shard[ids], patches.offset[ids], patches.nbytes[ids]
        ranges = coalesce(shard, offset, nbytes, _MAX_GAP, _MAX_RANGE)
        for number, fetched in enumerate(self._shards.read(ranges)):
            places = ranges.order[ranges.first[number] : ranges.first[number + 1]]
            begins = offset[places] - ranges.start[number]
            ends = begins + nbytes[places]
            for place, begin, end in zip(places.tolist(), begins.tolist(), ends.tolist(), strict=True):
                self._decode(int(ids[place]), fetched, begin, end, images[place])
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def batches(self, plan_rows: Iterable[np.ndarray]) -> Generator[tuple[np.ndarray, torch.Tensor], None, None]:
        """Read batch after batch, the next ones in threads while the caller uses the current one.

        Args:
            plan_rows: (n,) int64 patch ids of each batch, without padding.

        Yields:
            (ids, images) in the order of `plan_rows`, images as by `read`.

        Raises:
            InputError: as by `read`, when the batch's turn comes.
        """
        rows = iter(plan_rows)
        pending: deque[tuple[np.ndarray, Future[torch.Tensor]]] = deque()
        pool = ThreadPoolExecutor(self._config.threads, thread_name_prefix="patch-reader")
        try:
            while True:
                while len(pending) <= self._config.prefetch_batches and (ids := next(rows, None)) is not None:
                    pending.append((ids, pool.submit(self.read, ids)))
                if not pending:
                    return
                ids, images = pending.popleft()
                yield ids, images.result()
        finally:  # also when the caller stops early: no thread outlives the generator
            pool.shutdown(wait=True, cancel_futures=True)

    @property
    def _shards(self) -> LocalShards:
        if self._process != os.getpid():  # after a fork: the parent's locks may be held by threads that are not here
            self._process = os.getpid()
            self._local = self._open_shards()
        return self._local

    def _open_shards(self) -> LocalShards:
        paths = [self._cohort.shard_path(shard) for shard in range(len(self._cohort.info["shards"]))]
        return LocalShards(paths, self._config.max_open_files)

    def _decode(self, patch_id: int, fetched: Fetched, begin: int, end: int, image: np.ndarray) -> None:
        if end > len(fetched.data):
            raise self._unreadable(patch_id, fetched.problem)
        try:
            decode_into(fetched.data[begin:end], image)
        except DecodeError as error:
            raise self._unreadable(patch_id, str(error)) from error

    def _unreadable(self, patch_id: int, problem: str) -> InputError:
        patches = self._cohort.patches
        slide = self._cohort.slide_ids[patches.slide[patch_id]]
        return InputError(
            f"{self._cohort.shard_path(patches.shard[patch_id])}: patch {patch_id} of slide {slide!r} (offset "
            f"{patches.offset[patch_id]}, {patches.nbytes[patch_id]} bytes) cannot be read: {problem}. "
            f"Remove the shard and tile again (hnm tile makes what is missing), or restore it from a backup."
        )
