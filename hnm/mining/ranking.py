"""Ranking: the highest share of a pool of scores, of the whole cohort or of each slide, with ties in a fixed order.

The order is total: higher score first, then lower patch id; so a set does not depend on how patches were spread over ranks.
Nothing loops over patches or sorts them all: a share is found by partition.
"""

from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

Ties = Literal["exact", "keep"]


class Cut(NamedTuple):
    """Where a ranking is cut: all scores above `threshold` are taken, and the first `num_ties` of those equal to it."""

    threshold: float
    num_ties: int


def count_of_share(share: float, total: int) -> int:
    """Return ceil(share * total), without counting rounding dust as one more."""
    return min(total, int(np.ceil(share * total - 1e-9)))


def lowest_place(share: float, total: int, ties: Ties) -> int:
    """Return the place, in ascending order, of the lowest score that is taken of `total` >= 1.

    Args:
        share: in (0, 1].
        ties: "exact": ceil(share * total) scores are taken; "keep": those at or above the (1 - share) quantile with
            linear interpolation, as in the released code. That quantile lies between two neighbours in the ranking, so
            the scores at or above it are those from the upper neighbour on.
    """
    if ties == "keep":
        return int(np.ceil((1 - share) * (total - 1) - 1e-9))
    return min(total - 1, total - count_of_share(share, total))


def cut_of(pool: np.ndarray, share: float, ties: Ties) -> Cut:
    """Return the cut that takes the highest `share` of the pool, by partition.

    Args:
        pool: (n,) floats, none NaN; reordered in place, for at 10^8 a copy is 0.4 GB.
        share: in (0, 1].
        ties: see `lowest_place`.
    """
    if len(pool) == 0:
        return Cut(np.inf, 0)
    place = lowest_place(share, len(pool), ties)
    pool.partition(place)
    threshold = pool[place]
    if ties == "keep":
        return Cut(float(threshold), len(pool))
    num_above = int(np.count_nonzero(pool[place:] > threshold))
    return Cut(float(threshold), len(pool) - place - num_above)


def mark_top(scores: np.ndarray, among: np.ndarray, share: float, ties: Ties) -> np.ndarray:
    """Return which patches have the highest `share` of the scores, (n,) bool; equal scores go to lower ids first.

    Args:
        scores: (n,) floats.
        among: (n,) bool, the patches that are ranked.
        share: in (0, 1].
        ties: see `lowest_place`.
    """
    cut = cut_of(scores[among], share, ties)
    chosen = scores > cut.threshold
    chosen &= among
    equal = scores == cut.threshold
    equal &= among
    chosen[np.flatnonzero(equal)[: cut.num_ties]] = True
    return chosen


def top_share(scores: np.ndarray, share: float, ties: Ties) -> np.ndarray:
    """Return the increasing positions of the highest `share` of `scores` (n,), see `mark_top`."""
    return np.flatnonzero(mark_top(scores, np.ones(len(scores), bool), share, ties))


def mark_top_of_slides(
    scores: np.ndarray, among: np.ndarray, bounds: np.ndarray, share: float, ties: Ties
) -> np.ndarray:
    """Return which patches are in the highest `share` of their own slide, at least one a slide, (n,) bool.

    A label promises that every positive slide holds a positive patch, and nothing about one slide against another: a slide
    whose patches all score low has candidates too.

    Args:
        scores: (n,) floats.
        among: (n,) bool, the patches that are ranked: of a slide all or none.
        bounds: (s + 1,) int64, increasing; slide i has the scores [bounds[i], bounds[i + 1]), possibly none.
        share: in (0, 1].
        ties: see `lowest_place`.
    """
    chosen = np.zeros(len(scores), bool)
    for start, stop in pairwise(bounds):
        if start < stop and among[start]:
            chosen[start:stop][top_share(scores[start:stop], share, ties)] = True
    return chosen


def by_score(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return increasing `ids` (k,) in the order of the ranking: highest score first, then lowest id."""
    return ids[np.argsort(-scores[ids], kind="stable")]
