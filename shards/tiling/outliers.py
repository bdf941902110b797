"""Slides whose number of patches stands out in the cohort: a wrong mpp, a failed filter, another kind of slide."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

MIN_SLIDES = 5  # of fewer there is no usual number
MAX_ROBUST_Z = 3.5  # Iglewicz and Hoaglin 1993
# Deviations are of log counts, so that twice and half weigh the same. Even where all slides are alike, a tenth more or
# less is no news.
LEAST_DEVIATION = 0.1
MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class Outlier:
    """A slide that stands out: its count, the cohort's median count, and how many deviations lie between them."""

    slide_id: str
    num_patches: int
    median: float
    robust_z: float

    def __str__(self) -> str:
        word = "more" if self.robust_z > 0 else "fewer"
        return f"{self.slide_id}: {self.num_patches:,} patches, far {word} than usual (median {self.median:,.0f})"


def find_outliers(num_patches_of: Mapping[str, int]) -> list[Outlier]:
    """Return the slides whose robust z-score (median, MAD, of log counts) is beyond 3.5, in order.

    Args:
        num_patches_of: above 0, by slide id.
    """
    if len(num_patches_of) < MIN_SLIDES:
        return []
    counts = np.array(list(num_patches_of.values()), np.float64)
    away = np.log(counts) - np.median(np.log(counts))
    z = away / max(MAD_TO_SIGMA * float(np.median(np.abs(away))), LEAST_DEVIATION)
    return [
        Outlier(slide_id, int(count), float(np.median(counts)), float(its_z))
        for slide_id, count, its_z in zip(num_patches_of, counts, z, strict=True)
        if abs(its_z) > MAX_ROBUST_Z
    ]
