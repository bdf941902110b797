"""Experiments on how few patches of a positive slide may be positive (data.witness_rate)."""

import numpy as np

from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.seeding import numpy_generator


def thin_to_witness_rate(cohort: Cohort, labels: np.ndarray, rate: float, seed: int) -> np.ndarray:
    """Return which patches to keep, (N,) bool, so that `rate` of the patches of each positive slide are positive.

    Patches of the kind that is too many are dropped at random; at least one positive patch stays. Slides that are not
    positive keep everything.

    Raises:
        InputError: a positive slide has patches of unknown truth, or no positive patch.
    """
    keep = np.ones(cohort.num_patches, bool)
    generator = numpy_generator(seed, "witness rate")
    for slide in np.flatnonzero(labels == 1):
        first, stop = cohort.patch_bounds[slide : slide + 2]
        truth = cohort.patches.truth[first:stop]
        positive, negative = np.flatnonzero(truth == 1), np.flatnonzero(truth == 0)
        if len(truth) and (len(positive) == 0 or np.any(truth == -1)):
            raise InputError(
                f"{cohort.root}: slide {cohort.slide_ids[slide]} has no positive patch or patches of unknown truth, which "
                "data.witness_rate needs. Tile with a points file or annotations, or leave data.witness_rate out"
            )
        wanted_positive = max(1, round(rate * len(negative) / (1 - rate)))
        wanted_negative = round(len(positive) * (1 - rate) / rate)
        for ids, wanted in ((positive, wanted_positive), (negative, wanted_negative)):
            if len(ids) > wanted:
                keep[first + generator.permutation(ids)[wanted:]] = False
    return keep
