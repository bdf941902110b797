"""Patches by id: only the bytes that the plan asks for are read, and they are decoded straight into the batch.

    plan rows ──▶ [thread: fetch bytes by offset ▶ decode] ──▶ (ids, images (n, 3, h, w) uint8), in plan order

The future is known (a plan is an array), so the next batches are read while the current one is used.
"""

import os
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.utils.data import get_worker_info

from shards.cohort.cohort import Cohort
from shards.reading.broken import BrokenPatches, BrokenPolicy, UnreadablePatchError
from shards.reading.buffers import BatchBuffers
from shards.reading.cache import ShardCache
from shards.reading.decode import DecodeError, decode_into, image_shape
from shards.reading.fetch import LocalShards, Wanted
from shards.reading.remote import RemoteShards
from shards.secrets import SecretOptions, SecretText


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
    broken: BrokenPolicy = Field(
        "fail",
        description="A patch that cannot be read is an error (fail), or is counted and another patch of its slide "
        "stands in for it (skip), the same one on any rank.",
    )
    max_broken_share: float = Field(
        0.001, ge=0, le=1, description="broken: skip still fails when more than this share of all patches is broken."
    )
    shards_url: SecretText | None = Field(
        None, description="URL of the tars' folder (s3://, https://, ...); none: shards/ in the cohort's folder."
    )
    storage_options: SecretOptions = Field(
        default_factory=SecretOptions.none,
        description="Options of fsspec for shards_url, such as endpoint_url; keep credentials in the environment. No file of a "
        "run has them: *** stands there.",
    )
    num_requests: int = Field(16, ge=1, description="Range requests in flight at once, per thread (shards_url only).")
    num_retries: int = Field(
        5, ge=0, description="How often a failed request is sent again, after 0.1, 0.2, 0.4, ... s (shards_url only)."
    )
    stage_dir: Path | None = Field(
        None,
        description="Folder on each node's own disk, such as $TMPDIR/hnm: the shards that are needed are copied there "
        "before the work begins; none: they are read where they are (not with shards_url, which has cache_dir).",
    )
    cache_dir: Path | None = Field(
        None, description="Folder on a local disk that keeps what was fetched (shards_url only); none: nothing is kept."
    )
    cache_gb: float = Field(20.0, gt=0, description="Most that cache_dir may take for this cohort, GB (10^9 bytes).")


class PatchReader:
    """Reads patches of one cohort by id. Threads may share one object; a forked process opens its own files.

    Attributes:
        broken: what could not be read so far; `broken.problem_of` goes into the report.
        num_read: images that `batches` has handed out so far.
    """

    def __init__(
        self,
        cohort: Cohort,
        config: ReaderConfig,
        slide_groups: np.ndarray | None = None,
        copies: Path | None = None,
    ) -> None:
        """Shard files are opened when they are first read.

        Args:
            cohort: whose patches are read.
            config: how.
            slide_groups: (S,) integer, such as the slide labels: with `broken: skip`, a slide of which nothing can be
                read is replaced by one of its group; None: by none, it is an error.
            copies: folder with copies of shards (see `launch.process.staging`); a shard without one is read where it is.
        """
        self._cohort = cohort
        self._config = config
        self._copies = copies
        folder = str(config.shards_url or cohort.root / "shards")
        self.broken = BrokenPatches(cohort, folder, config.broken, config.max_broken_share, slide_groups)
        self.num_read = 0
        self._files = self._open_shards()
        self._process = os.getpid()
        self._buffers = self._new_buffers()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the open files and let the batch memory go; reading again opens and takes them again."""
        self._shards.close()
        self._buffers = self._new_buffers()

    @cached_property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of the cohort's patches, from the JPEG header of the first that has one.

        Patches that are broken are not counted here: they may be none that is ever asked for.

        Raises:
            UnreadablePatchError: none can be read.
        """
        self._cohort.require_pictures("This")
        last = "it has none"
        first_of_slides = np.flatnonzero(np.diff(self._cohort.patch_bounds))  # a whole shard may be missing
        for patch_id in chain(self._cohort.patch_bounds[first_of_slides].tolist(), range(self._cohort.num_patches)):
            ((_, data, problem),) = next(self._shards.read(Wanted.of(self._cohort.patches, np.array([patch_id]))))
            try:
                return image_shape(data)
            except DecodeError as error:
                last = problem or str(error)
        raise UnreadablePatchError(f"{self._cohort.root}: none of its patches can be read, the last because: {last}")

    def read(self, ids: np.ndarray) -> torch.Tensor:
        """Read and decode patches.

        Args:
            ids: (n,) int64 patch ids, in any order, repeats allowed.

        Returns:
            (n, 3, h, w) uint8 RGB in the order of `ids`, in channels_last memory format (as decoded, not copied); in
            pinned memory where this process uses a GPU.

        Raises:
            UnreadablePatchError: a patch cannot be read, and the policy does not allow a stand-in.
        """
        return self._fill(ids, BatchBuffers(0))

    def batches(self, plan_rows: Iterable[np.ndarray]) -> Generator[tuple[np.ndarray, torch.Tensor], None, None]:
        """Read batch after batch, the next ones in threads while the caller uses the current one.

        Args:
            plan_rows: (n,) int64 patch ids of each batch, without padding.

        Yields:
            (ids, images) in the order of `plan_rows`, images as by `read`.

        Raises:
            UnreadablePatchError: as by `read`, when the batch's turn comes.
        """
        self._renew_after_fork()
        rows = iter(plan_rows)
        pending: deque[tuple[np.ndarray, Future[torch.Tensor]]] = deque()
        # Pinned memory belongs to the current GPU, which a new thread would not know.
        set_up = partial(torch.cuda.set_device, torch.cuda.current_device()) if _may_pin() else None
        pool = ThreadPoolExecutor(self._config.threads, "patch-reader", set_up)
        try:
            while True:
                while len(pending) <= self._config.prefetch_batches and (ids := next(rows, None)) is not None:
                    pending.append((ids, pool.submit(self._fill, ids, self._buffers)))
                if not pending:
                    return
                ids, images = pending.popleft()
                done = images.result()
                self.num_read += len(ids)
                yield ids, done
        finally:  # also when the caller stops early: no thread outlives the generator
            pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self, ids: np.ndarray, buffers: BatchBuffers) -> torch.Tensor:
        """Decode patches into a tensor (n, h, w, 3) and return it as (n, 3, h, w)."""
        shape = (len(ids), *self.image_shape, 3)
        # torch keeps pinned memory for the next one by itself, until a copy to the GPU has finished with it.
        images = torch.empty(shape, dtype=torch.uint8, pin_memory=True) if _may_pin() else buffers.take(shape)
        pixels = images.numpy()
        for place, problem in self._decode(ids, pixels).items():
            self._decode_stand_in(int(ids[place]), problem, pixels[place])
        return images.permute(0, 3, 1, 2)

    def _decode(self, ids: np.ndarray, pixels: np.ndarray) -> dict[int, str]:
        """Decode patches into `pixels` (n, h, w, 3) and return the problem by place of those that are broken."""
        problem_of_place = {}
        for fetched in self._shards.read(Wanted.of(self._cohort.patches, ids)):
            for place, data, problem in fetched:
                if not problem:
                    try:
                        decode_into(data, pixels[place])
                        continue
                    except DecodeError as error:
                        problem = str(error)
                problem_of_place[place] = problem
        return problem_of_place

    def _decode_stand_in(self, patch_id: int, problem: str, image: np.ndarray) -> None:
        self.broken.record(patch_id, problem)
        for stand_in in self.broken.stand_ins(patch_id):
            problem_of_place = self._decode(np.array([stand_in]), image[None])
            if not problem_of_place:
                return
            self.broken.record(stand_in, problem_of_place[0])

    @property
    def _shards(self) -> LocalShards | RemoteShards:
        self._renew_after_fork()
        return self._files

    def _renew_after_fork(self) -> None:
        if self._process != os.getpid():  # locks may be held by threads that were left behind
            self._files = self._open_shards()
            self._buffers = self._new_buffers()
            self._process = os.getpid()

    def _new_buffers(self) -> BatchBuffers:
        # Kept from epoch to epoch: an epoch of a few batches would else spend a fifth of its time on fresh pages.
        # The batches ahead, one in use, one just replaced, one spare.
        return BatchBuffers(self._config.prefetch_batches + 3)

    def _open_shards(self) -> LocalShards | RemoteShards:
        config, names = self._config, self._cohort.info["shards"]
        if config.shards_url is None:
            paths = [self._cohort.shard_path(shard) for shard in range(len(names))]
            if self._copies is not None:
                copied = {path.name for path in self._copies.glob("*.tar")}
                paths = [self._copies / path.name if path.name in copied else path for path in paths]
            return LocalShards(paths, config.max_open_files)
        cache = None
        if config.cache_dir:
            folder = config.cache_dir / self._cohort.fingerprint
            num_patches = self._cohort.num_patches
            cache = ShardCache(folder, names, num_patches, config.cache_gb * 1e9, config.max_open_files)
        return RemoteShards(
            config.shards_url, names, config.storage_options, config.num_requests, config.num_retries, cache
        )


def _may_pin() -> bool:
    """Does this process use a GPU? One that only could does not pin: that would open a context, hundreds of MB, on the GPU.

    Not in a loader's worker: CUDA does not survive a fork.
    """
    return get_worker_info() is None and torch.cuda.is_initialized()
