"""The patches of some slides as rows 0, 1, ...: what a round embeds and scores."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class SlideRows:
    """The patches of some slides as rows 0, 1, ...: an array of their ids would be 0.4 GB at 10^8 patches.

    Attributes:
        bounds: (s, 2) int64, the first patch id of each slide and the one after its last.
    """

    bounds: np.ndarray

    @property
    def per_slide(self) -> np.ndarray:
        """(s,) int64, rows of each slide."""
        return np.asarray(self.bounds[:, 1] - self.bounds[:, 0])

    @cached_property
    def starts(self) -> np.ndarray:
        """(s,) int64, the first row of each slide."""
        return np.cumsum(self.per_slide) - self.per_slide

    @cached_property
    def num_rows(self) -> int:
        """Rows of all slides."""
        return int(self.per_slide.sum())

    def ids(self, start: int, stop: int) -> np.ndarray:
        """Return the patch ids of rows [start, stop), int64."""
        rows = np.arange(start, stop)
        slide = np.searchsorted(self.starts, rows, side="right") - 1
        return np.asarray(rows + (self.bounds[:, 0] - self.starts)[slide])


@dataclass(frozen=True)
class ChosenRows:
    """Some patches of some slides as rows 0, 1, ..., in the order of their ids.

    Attributes:
        patches: (m,) their increasing ids, such as a memory map.
        patch_bounds: (S + 1,) of the cohort.
        slides: (s,) increasing slide numbers; they have all of the patches.
    """

    patches: np.ndarray
    patch_bounds: np.ndarray
    slides: np.ndarray

    @property
    def num_rows(self) -> int:
        """Rows of all slides."""
        return len(self.patches)

    @cached_property
    def per_slide(self) -> np.ndarray:
        """(s,) int64, rows of each slide."""
        ends = np.searchsorted(self.patches, self.patch_bounds.astype(self.patches.dtype))
        return np.asarray(np.diff(ends)[self.slides])

    def ids(self, start: int, stop: int) -> np.ndarray:
        """Return the patch ids of rows [start, stop), int64."""
        return self.patches[start:stop].astype(np.int64)


Rows = SlideRows | ChosenRows
