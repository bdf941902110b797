"""Bags for the steps of an epoch: which patches of which slides this rank takes, read one step ahead in a thread.

    (pairs, 2) slides of a step ──this rank's──▶ Share: slides, weight, float16 bags ──to the device, float32──▶ Packed

A slide of more than `max_patches` patches gives as many of them, drawn anew in every epoch from (seed, round, epoch, slide):
which, does not depend on the number of ranks.
"""

from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from hnm.aggregator.bags import Bags
from hnm.aggregator.dsmil import Packed, pack_rows
from hnm.engine.ranks import World
from shards.reading.plan import rows_of_rank
from shards.seeding import numpy_generator


class Share(NamedTuple):
    """One rank's part of a step.

    Attributes:
        slides: (2 p,) slide numbers, the p positive ones first, then their p negative partners.
        weight: what the sum of this rank's losses is multiplied by, so that the ranks' mean is the mean over all pairs.
        bags: (patches, dim) of each, as they are kept: float16, or float32 of another tool.
    """

    slides: np.ndarray
    weight: float
    bags: list[np.ndarray]

    def packed(self, device: torch.device) -> Packed:
        """Return the bags in float32 on a device; what travels there is float16."""
        sizes = np.array([len(bag) for bag in self.bags])
        features = torch.empty((int(sizes.sum()), self.bags[0].shape[1]), device=device)
        for part, bag in zip(features.split(sizes.tolist()), self.bags, strict=True):
            part.copy_(torch.from_numpy(bag).to(device))
        return pack_rows(sizes, features)


class Feed:
    """Where the bags of one epoch come from.

    Args:
        bags: the features.
        most: patches of a slide at most; None: all of them.
        key: (seed, round, epoch), what the choice of patches depends on.
        world: whose share is read.
    """

    def __init__(self, bags: Bags, most: int | None, key: tuple[int, int, int], world: World) -> None:
        self.bags, self.most, self.key, self.world = bags, most, key, world

    def read(self, pairs: np.ndarray) -> Share:
        """Return this rank's share of a step of (pairs, 2) slides.

        A rank without a pair of its own takes a patch of each slide of the first one, with weight zero: engines average
        over ranks that all have done their forward and backward pass.
        """
        mine = pairs[rows_of_rank(len(pairs), self.world.rank, self.world.size)]
        is_idle = len(mine) == 0
        slides = (pairs[:1] if is_idle else mine).T.ravel()  # positives first, then negatives
        bags = [self.bags.some(int(slide), np.array([0]) if is_idle else self.choose(int(slide))) for slide in slides]
        return Share(slides, 0.0 if is_idle else self.world.size / len(pairs), bags)

    def choose(self, slide: int) -> np.ndarray | None:
        """Return which patches of a slide are taken, (most,) increasing places in it; None: all."""
        start, stop = self.bags.rows_of_slide[slide]
        if self.most is None or stop - start <= self.most:
            return None
        seed, *which = self.key
        return np.sort(numpy_generator(seed, "patches", *which, slide).choice(stop - start, self.most, replace=False))

    def ahead(self, steps: Iterable[np.ndarray]) -> Generator[Share, None, None]:
        """Yield the share of each step; the next one is read meanwhile."""
        with ThreadPoolExecutor(1, "next-bags") as pool:
            reading: Future[Share] | None = None
            for pairs in steps:
                read, reading = reading, pool.submit(self.read, pairs)
                if read is not None:
                    yield read.result()
            if reading is not None:
                yield reading.result()
