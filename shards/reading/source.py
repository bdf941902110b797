"""A plan as the source stage of a WebDataset pipeline, with process workers where threads are not enough.

    loader = wds.WebLoader(wds.DataPipeline(PlanSource(reader, plan, rank, world_size, start_step)), batch_size=None)

Worker w of n takes every n-th step. A loader asks its workers in turn, so the steps come out in order with any number
of workers, and a run that stopped before step s goes on with start_step = s: the plan of (round, epoch) and the step
are all the state there is.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import get_worker_info

from shards.reading.plan import ids_of_rank
from shards.reading.reader import PatchReader


class PlannedBatch(NamedTuple):
    """One rank's part of a step.

    Attributes:
        step: row of the plan.
        ids: (n,) int64 patch ids.
        images: (n, 3, h, w) uint8 RGB.
        broken: (b,) int64, those of `ids` whose image is another patch's, because theirs cannot be read.
    """

    step: int
    ids: torch.Tensor
    images: torch.Tensor
    broken: torch.Tensor


class PlanSource:
    """Yields a rank's batches of a plan, step by step. Each loader worker has its own copy."""

    def __init__(
        self, reader: PatchReader, plan: np.ndarray, rank: int = 0, world_size: int = 1, start_step: int = 0
    ) -> None:
        """Describe the slice of the plan; nothing is read yet.

        Args:
            reader: of the cohort.
            plan: (steps, batch) int64, -1 = padding, the same on all ranks.
            rank: this rank.
            world_size: number of ranks.
            start_step: first step to yield, as after a resume.
        """
        self._reader = reader
        self._plan = plan
        self._rank = rank
        self._world_size = world_size
        self._start_step = start_step

    def __call__(self) -> Iterator[PlannedBatch]:
        """Yield the steps of this loader worker, all of them where there are no workers."""
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        steps = range(self._start_step + first, len(self._plan), stride)
        rows = (ids_of_rank(self._plan[step], self._rank, self._world_size) for step in steps)
        for step, (ids, images) in zip(steps, self._reader.batches(rows), strict=True):
            broken = ids[np.isin(ids, self._reader.broken.ids)]
            yield PlannedBatch(step, torch.from_numpy(ids), images, torch.from_numpy(broken))
