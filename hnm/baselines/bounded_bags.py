"""A run's features as bags in memory for the baselines, of large cohorts some patches of each slide."""

from dataclasses import dataclass

import numpy as np

from hnm.aggregator.bags import Bags as BagsOnDisk
from hnm.baselines.bags import Bags
from hnm.run.study import Study
from shards.seeding import numpy_generator

MAX_ROWS = 1_000_000  # of all slides together: 2 GB at 512 numbers a patch


@dataclass(frozen=True)
class Shown:
    """Which patches of each slide the baselines see.

    Attributes:
        rows: by slide the increasing places of its patches; those of slides that take no part are missing.
        first: (S,) id of each slide's first patch.
        num_patches: of these slides, shown or not.
    """

    rows: dict[int, np.ndarray]
    first: np.ndarray
    num_patches: int

    def ids_of(self, slides: np.ndarray) -> np.ndarray:
        """Return the ids of the shown patches of slides, in their order."""
        return np.concatenate([self.first[slide] + self.rows[slide] for slide in slides.tolist()])

    @property
    def warnings(self) -> list[str]:
        """Say that patches were left out, if any were."""
        num = sum(map(len, self.rows.values()))
        if num == self.num_patches:
            return []
        return [f"the baselines see {num:,} of {self.num_patches:,} patches, drawn at random from each slide"]


def shown_rows(study: Study, seed: int, most: int = MAX_ROWS) -> Shown:
    """Return all patches of the slides that take part, or of each slide so many that there are no more than `most`."""
    slides, sizes = np.sort(np.concatenate([study.embedded_slides, study.test])), study.cohort.patches_per_slide
    total = int(sizes[slides].sum())
    each = np.iinfo(np.int64).max if total <= most else max(1, most // len(slides))
    rows = {}
    for slide in slides.tolist():
        every = np.arange(sizes[slide])
        drawn = numpy_generator(seed, "baseline patches", slide).permutation(every)[:each] if len(every) > each else every
        rows[slide] = np.sort(drawn)
    return Shown(rows, study.cohort.patch_bounds[:-1], total)


def bags_of(bags: BagsOnDisk, study: Study, slides: np.ndarray, shown: Shown) -> Bags:
    """Return the shown patches of slides, (rows, dim) float32 each, with the slides' labels."""
    return Bags(tuple(_rows(bags, slide, shown.rows[slide]) for slide in slides.tolist()), study.labels[slides])


def _rows(bags: BagsOnDisk, slide: int, places: np.ndarray) -> np.ndarray:
    """Return some rows of a slide; where few are wanted, only these are read."""
    start, stop = bags.rows_of_slide[slide]
    if len(places) > (stop - start) // 16:
        return bags.bag(slide).cpu().numpy()[places]
    return np.concatenate([bags.rows(start + place, start + place + 1).cpu().numpy() for place in places.tolist()])
