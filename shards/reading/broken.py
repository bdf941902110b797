"""Patches that cannot be read: counted, named, and replaced by the same stand-in on whichever rank meets them.

The rule depends on the cohort's files alone, so ranks stay in step without a word: the stand-in is the next patch id of
the same slide (after the last comes the first) that can be read; where a slide has none, the first such patch of the
following slides of the same group (the same label, that is). The stand-in takes the patch's place in the batch: its id,
label and weight stay those of the plan.
"""

import logging
from collections.abc import Iterator
from typing import Literal

import numpy as np

from shards.cohort.cohort import Cohort
from shards.errors import UnreadablePatchError
from shards.reading.fetch import MISSING

BrokenPolicy = Literal["fail", "skip"]

_LOG = logging.getLogger(__name__)
_LOG_EVERY = 100


class BrokenPatches:
    """What is known to be broken in a cohort, for one reader.

    Attributes:
        problem_of: the problem by patch id, of all broken patches met so far.
    """

    def __init__(
        self,
        cohort: Cohort,
        folder: str,
        policy: BrokenPolicy,
        max_share: float,
        slide_groups: np.ndarray | None,
    ) -> None:
        """Begin with nothing known.

        Args:
            cohort: the cohort.
            folder: where its shards lie, for the messages.
            policy: "fail": the first broken patch is an error; "skip": only more than `max_share` of all patches are.
            max_share: share of the cohort's patches that may be broken.
            slide_groups: (S,) integer, such as the slide labels: which slides may stand in for each other; None: none.
        """
        self._cohort = cohort
        self._folder = folder
        self._policy = policy
        self._max_share = max_share
        self._slide_groups = slide_groups
        self._missing_shards: set[int] = set()
        self.problem_of: dict[int, str] = {}

    @property
    def ids(self) -> np.ndarray:
        """(b,) int64, ascending: the broken patches met so far."""
        return np.array(sorted(self.problem_of), dtype=np.int64)

    def record(self, patch_id: int, problem: str) -> None:
        """Note that a patch is broken.

        Raises:
            UnreadablePatchError: the policy is to fail, or too many patches are broken.
        """
        if patch_id in self.problem_of:
            return
        if self._policy == "fail":
            raise UnreadablePatchError(
                f"{self._describe(patch_id, problem)}. Find all of them with: hnm check {self._cohort.root}; then "
                "remove the damaged shards and run hnm tile again: it makes what is missing. Or set reader.broken=skip"
            )
        self.problem_of[patch_id] = problem
        if problem == MISSING:
            self._missing_shards.add(int(self._cohort.patches.shard[patch_id]))
        num_broken, num_patches = len(self.problem_of), self._cohort.num_patches
        if num_broken % _LOG_EVERY == 1:
            _LOG.warning("%s; another stands in (broken so far: %d)", self._describe(patch_id, problem), num_broken)
        if num_broken > self._max_share * num_patches:
            raise UnreadablePatchError(
                f"{num_broken} of {num_patches} patches cannot be read, more than reader.max_broken_share "
                f"({self._max_share:g}) allows; the last: {self._describe(patch_id, problem)}. Mend the shards "
                f"(hnm check {self._cohort.root} lists them all) or raise reader.max_broken_share"
            )

    def stand_ins(self, patch_id: int) -> Iterator[int]:
        """Yield the candidates to stand in for a broken patch, in the order of the rule; the first readable one is it.

        Raises:
            UnreadablePatchError: there are no more candidates.
        """
        slide, bounds = int(self._cohort.patches.slide[patch_id]), self._cohort.patch_bounds
        own = np.arange(bounds[slide], bounds[slide + 1])
        yield from self._not_known_broken(np.roll(own, bounds[slide] - patch_id - 1))
        for other in self._slides_of_same_group(slide):
            yield from self._not_known_broken(np.arange(bounds[other], bounds[other + 1]))
        raise UnreadablePatchError(
            f"{self._cohort.root}: slide {self._cohort.slide_ids[slide]!r} has no patch that can be read, and no other "
            "slide may stand in for it. Tile the slide again, or take it out of slides.csv"
        )

    def _slides_of_same_group(self, slide: int) -> list[int]:
        if self._slide_groups is None:
            return []
        others = np.roll(np.arange(self._cohort.num_slides), -slide - 1)[:-1]
        return others[self._slide_groups[others] == self._slide_groups[slide]].tolist()

    def _not_known_broken(self, ids: np.ndarray) -> Iterator[int]:
        if self._missing_shards:
            ids = ids[~np.isin(self._cohort.patches.shard[ids], list(self._missing_shards))]
        for patch_id in ids.tolist():
            if patch_id not in self.problem_of:
                yield patch_id

    def _describe(self, patch_id: int, problem: str) -> str:
        patches = self._cohort.patches
        slide = self._cohort.slide_ids[patches.slide[patch_id]]
        shard = self._cohort.info["shards"][patches.shard[patch_id]]
        place = f"offset {patches.offset[patch_id]}, {patches.nbytes[patch_id]} bytes"
        return f"{self._folder}/{shard}: patch {patch_id} of slide {slide!r} ({place}) cannot be read: {problem}"
