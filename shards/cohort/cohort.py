"""The cohort on disk: which slides there are, where each patch lies, and the arrays that everything else indexes.

    cohort/
      cohort.json       format version, settings, shard names (index = the `shard` column), totals
      slides.parquet    a row per slide
      patches.parquet   a row per patch; the row number is the patch id, in slide order
      table/*.npy       its columns once more, memory-mapped (patch_table.py)
      mimics.npy        (N,) bool, the patches of tile.mimic_groups; only where these were given
      shards/*.tar      WebDataset tars of JPEGs; or, of hnm import features, features/ in their place

A patch is a row number: scores, labels, weights and features are plain arrays indexed by it.
"""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.cohort.patch_table import PATCH_SCHEMA, Names, Patches, open_patches, unreadable
from shards.cohort.source_sites import site_of
from shards.errors import InputError
from shards.files import plain_name

__all__ = ["FEATURES", "FORMAT_VERSION", "MIMICS", "PATCH_SCHEMA", "Cohort", "Patches"]

FORMAT_VERSION = 1
FEATURES = "features"  # folder with features in the place of pictures
MIMICS = "mimics.npy"


@dataclass(frozen=True)
class Cohort:
    """An opened cohort.

    Attributes:
        root: the cohort's folder.
        info: cohort.json.
        slides: slides.parquet, a row per slide.
        patches: the patch table; row number = patch id.
        mimics: (N,) bool, the patches known to look like a tumour and to be none; None where it is not known.
    """

    root: Path
    info: dict[str, Any]
    slides: pa.Table
    patches: Patches
    mimics: np.ndarray | None = None

    @classmethod
    def open(cls, root: Path, with_mimics: bool = True) -> "Cohort":
        """Read the tables of the cohort in folder `root`; `with_mimics=False` while mimics.npy is not written yet.

        Raises:
            InputError: the folder is no finished cohort, or is of another format version.
        """
        info_path = root / "cohort.json"
        if not info_path.is_file():
            raise InputError(
                f"{root}: no cohort here (cohort.json is missing). Make one with: hnm tile slides.csv {root}"
            )
        try:
            info = json.loads(info_path.read_text(encoding="utf-8"))
            version = info.get("format_version")
        except (ValueError, AttributeError) as error:
            raise InputError(f"{info_path}: damaged ({_first_line(error)}). Tile the slides again") from error
        if version != FORMAT_VERSION:
            raise InputError(
                f"{info_path}: format_version is {version}, this hnm reads {FORMAT_VERSION}. "
                f"Tile the slides again with this version: hnm tile slides.csv {root}"
            )
        for name in info["shards"]:
            plain_name(name, info_path)
        slides = _read_table(root / "slides.parquet")
        patches = open_patches(root, names_of(slides, info))
        asked_for = with_mimics and "features" not in info and info.get("settings", {}).get("mimic_groups")
        return cls(root, info, slides, patches, _read_mimics(root / MIMICS, len(patches)) if asked_for else None)

    @property
    def num_patches(self) -> int:
        return len(self.patches)

    @property
    def has_pictures(self) -> bool:
        """Are there pictures, or the features of `hnm import features` in their place?"""
        return "features" not in self.info

    @cached_property
    def has_places(self) -> bool:
        """Is it known of every patch where it is and how large? Other tools' features may come without."""
        if self.has_pictures:
            return True
        if "patch_level0" not in self.slides.column_names or (self.patches.x_level0 < 0).any():
            return False
        return all(self.slides["patch_level0"].filter(pa.array(self.patches_per_slide > 0)).is_valid().to_pylist())

    def require_pictures(self, what: str) -> None:
        """Refuse `what` where there are no pictures.

        Raises:
            InputError: naming the remedy.
        """
        if not self.has_pictures:
            raise InputError(
                f"{self.root}: a cohort of features, without pictures (hnm import features). {what} needs pictures: cut the "
                "slides with hnm tile or hnm import coords"
            )

    @property
    def num_slides(self) -> int:
        return self.slides.num_rows

    @cached_property
    def slide_ids(self) -> np.ndarray:
        """(S,) the slides' names."""
        return self.slides["slide_id"].to_numpy()

    @cached_property
    def patch_bounds(self) -> np.ndarray:
        """(S + 1,) int64: slide s owns the patch ids [patch_bounds[s], patch_bounds[s + 1])."""
        # int32 on both sides: otherwise NumPy would convert the whole column, 0.8 GB at 10^8 patches
        return np.searchsorted(self.patches.slide, np.arange(self.num_slides + 1, dtype=np.int32)).astype(np.int64)

    @property
    def patches_per_slide(self) -> np.ndarray:
        """(S,) int64."""
        return np.diff(self.patch_bounds)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the patch table and the slide names, to tell cohorts apart."""
        return self.patches.fingerprint(names_of(self.slides, self.info))

    def labels(self, column: str = "label", key: str = "data.label_column") -> np.ndarray:
        """Return the slide labels of one label column as (S,) int8: 1, 0, or -1 where the slide has none.

        Raises:
            InputError: there is no such column, naming `key`, or it holds words.
        """
        self._require(column, key)
        if (words := self.words(column)) is not None:
            some = ", ".join(sorted(set(words.tolist()) - {""})[:8])
            raise InputError(
                f"{self.root / 'slides.parquet'}: the column {column!r} holds words ({some}), not 1 and 0. Classes are learned "
                f"from one column of words, by hnm train: data.label_column={column}"
            )
        return self.slides[column].cast(pa.int8()).fill_null(-1).to_numpy()

    def words(self, column: str) -> np.ndarray | None:
        """Return a label column of words as (S,) str, "" where a slide has none; None: it is there and holds 1 and 0.

        Raises:
            InputError: there is no such column.
        """
        self._require(column, "data.label_column")
        if not pa.types.is_string(self.slides[column].type):
            return None
        return self.slides[column].fill_null("").to_numpy(zero_copy_only=False).astype(str)

    def splits(self, column: str = "split") -> np.ndarray:
        """Return each slide's split as (S,) str: train, validation, test, or "" for none.

        Raises:
            InputError: there is no such column.
        """
        self._require(column, "data.split_column")
        return self.slides[column].cast(pa.string()).fill_null("").to_numpy(zero_copy_only=False).astype(str)

    @cached_property
    def sites(self) -> np.ndarray:
        """(S,) str: the hospital that each slide is from, of the table or of TCGA's barcode; "" where it is not known."""
        names, patients = (self.slides[column].to_pylist() for column in ("slide_id", "patient_id"))
        told = self.slides["site"].to_pylist() if "site" in self.slides.column_names else [None] * len(names)
        return np.array([site_of(*its) for its in zip(told, patients, names, strict=True)])

    def shard_path(self, shard: int) -> Path:
        """Return the path of the tar with index `shard`."""
        return self.root / "shards" / self.info["shards"][shard]

    def restricted(self, keep: np.ndarray) -> "Cohort":
        """Return the same cohort with only the patches where `keep` (N,) bool is true; patch ids are counted anew."""
        mimics = None if self.mimics is None else self.mimics[keep]
        return replace(self, patches=self.patches.take(np.flatnonzero(keep)), mimics=mimics)

    def _require(self, column: str, key: str) -> None:
        if column not in self.slides.column_names:
            raise InputError(
                f"{self.root / 'slides.parquet'}: there is no column {column!r}. "
                f"Set {key} to one of: {', '.join(self.slides.column_names)}"
            )


def names_of(slides: pa.Table, info: dict[str, Any]) -> Names:
    """Return what a cohort's fingerprint is of besides the patch table."""
    features = info.get("features")
    return Names(slides["slide_id"].to_numpy(), str(features["digest"]) if features else "")


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from error


def _read_mimics(path: Path, num_patches: int) -> np.ndarray:
    """Return the memory-mapped mimics of a cohort that was asked for them."""
    try:
        mimics = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable ({_first_line(error)}). Run the same hnm tile again") from None
    if mimics.shape != (num_patches,) or mimics.dtype != bool:
        raise InputError(
            f"{path}: {mimics.dtype} of shape {mimics.shape} is not that of {num_patches} patches. Run the same hnm tile again"
        )
    return np.asarray(mimics)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
