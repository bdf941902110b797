"""Cohorts in Python: `hnm.open_cohort("cohort/")`: slides and patches as tables, patches as pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.reading.reader import PatchReader, ReaderConfig
from shards.tiling.mpp import patch_level0_of


@dataclass(frozen=True)
class OpenCohort:
    """A cohort, opened.

    Attributes:
        tables: what is on the disk, as the rest of the program uses it.
    """

    tables: Cohort

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.tables.root

    @property
    def num_slides(self) -> int:
        return self.tables.num_slides

    @property
    def num_patches(self) -> int:
        return self.tables.num_patches

    @property
    def slides(self) -> pd.DataFrame:
        """A row per slide, as in slides.parquet: slide_id, path, labels, patient_id, split, source_mpp, num_patches, ..."""
        return self.tables.slides.to_pandas()

    def patches(self, slide: str) -> pd.DataFrame:
        """Return the patches of a slide, a row each: the index is the patch id.

        Returns:
            x_level0, y_level0: left and top edge, level-0 pixels; side_level0: side, level-0 pixels; truth: 1 positive, 0 not,
            -1 unknown.

        Raises:
            InputError: there is no such slide.
        """
        number = number_of(self.tables, slide)
        own, patches = slice(*self.tables.patch_bounds[number : number + 2].tolist()), self.tables.patches
        columns = {name: np.array(getattr(patches, name)[own]) for name in ("x_level0", "y_level0", "truth")}
        ids = pd.RangeIndex(own.start, own.stop, name="patch_id")
        side = patch_level0_of(self.tables, number) if self.tables.has_places and own.start < own.stop else -1
        frame = pd.DataFrame(columns, index=ids)
        frame.insert(2, "side_level0", side)
        return frame

    def images(self, patch_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return patches as pictures, (n, h, w, 3) uint8 RGB, in the order of `patch_ids`.

        Raises:
            InputError: an id is none of the cohort's, there are only features, or a picture is damaged.
        """
        self.tables.require_pictures("images()")
        ids = np.asarray(patch_ids, np.int64).reshape(-1)
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.num_patches:
            bad = ids[(ids < 0) | (ids >= self.num_patches)][0]
            raise InputError(f"{self.path}: there is no patch {bad}; the ids are 0 to {self.num_patches - 1}")
        with PatchReader(self.tables, ReaderConfig()) as reader:
            return np.array(reader.read(ids).permute(0, 2, 3, 1).numpy())


def open_cohort(path: Path | str) -> OpenCohort:
    """Return the cohort that hnm tile wrote to a folder.

    Raises:
        InputError: there is none.
    """
    return OpenCohort(Cohort.open(Path(path)))


def number_of(cohort: Cohort, slide: str) -> int:
    """Return the number of a slide by its name.

    Raises:
        InputError: there is no such slide.
    """
    found = np.flatnonzero(cohort.slide_ids == slide)
    if not len(found):
        some = ", ".join(map(str, cohort.slide_ids[:3])) + (", ..." if cohort.num_slides > 3 else "")
        raise InputError(f"{cohort.root}: there is no slide {slide!r}; its slides are {some}")
    return int(found[0])
