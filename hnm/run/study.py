"""Who plays which part: the slides of a cohort that train, choose and test, with their labels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from hnm.statistics.bootstrap import can_draw_sites
from shards.cohort.cohort import Cohort
from shards.cohort.corrections import Corrections, read_corrections
from shards.cohort.label_words import words_of_setting
from shards.cohort.slides import SPLITS
from shards.cohort.source_sites import SplitBy
from shards.errors import InputError
from shards.reading.plan import id_type
from shards.seeding import numpy_generator


class DataConfig(BaseModel):
    """Which columns of slides.parquet are used, and for what."""

    model_config = ConfigDict(extra="forbid")

    label_column: str = Field("label", description="column of the slide labels (0/1; slides without one take no part)")
    positive: list[str] = Field(
        [],
        description="words of the label columns that are positive, such as malignant, read by hnm tile and hnm predict: other "
        "words are negative, NA and the like unknown. [] = labels are 1 and 0",
    )
    split_column: str = Field("split", description="column that says train, validation or test")
    encoder_splits: list[Literal["train", "validation"]] = Field(
        ["train"], description="splits whose patches train the encoder (the released code adds validation)"
    )
    split_by: SplitBy = Field(
        "patient",
        description="what no two splits may share. patient; site: the hospital, too (column site of slides.csv, or TCGA's "
        "barcode), folds as even as can be; each_site: a fold for each site. hnm crossval and hnm study draw by it; hnm train "
        "warns of a site in several splits, and intervals are over sites where 10 or more are tested",
    )
    witness_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="experiments only, needs patch truth: thin out positive slides to this share of positive patches",
    )

    @field_validator("positive", mode="before")
    @classmethod
    def _are_words(cls, value: Any) -> Any:
        return words_of_setting(value)


@dataclass(frozen=True)
class Study:
    """A cohort with the parts its slides play.

    Attributes:
        cohort: the slides and patches.
        labels: (S,) int8: 1, 0, or -1 for slides that take no part.
        train, validation, test: increasing slide numbers; every one has a label and at least one patch.
        encoder_slides: (S,) bool, the slides whose patches train the encoder.
        without_patch: by split the increasing numbers of the slides that have a label and gave no patch; they take no part.
        split_by: what no two splits are to share.
        corrections: patches that people have judged (hnm cohort correct).
    """

    cohort: Cohort
    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    encoder_slides: np.ndarray
    without_patch: Mapping[str, np.ndarray] = field(default_factory=dict)
    split_by: SplitBy = "patient"
    corrections: Corrections = field(default_factory=Corrections.none)

    @cached_property
    def missed(self) -> np.ndarray:
        """Increasing numbers of the positive test slides in which the tiling found no tissue: nothing of them is found."""
        slides = self.without_patch.get("test", np.empty(0, np.int64))
        is_missed = [self.labels[slide] == 1 and self.status_of(slide).startswith("empty") for slide in slides]
        return slides[np.array(is_missed, bool)]

    @property
    def judged(self) -> np.ndarray:
        """Increasing numbers of the slides that the test's figures are of: those tested, and those `missed`, with score 0."""
        return np.sort(np.concatenate([self.test, self.missed]))

    @cached_property
    def split_of(self) -> np.ndarray:
        """(S,) str: train, validation, test, or "" for slides that take no part."""
        names = np.full(self.cohort.num_slides, "", dtype="U10")
        for name in SPLITS:
            names[getattr(self, name)] = name
        return names

    def status_of(self, slide: int) -> str:
        """Return what the tiling says of a slide: "done", "empty: reason" or "failed: reason"."""
        return str(self.cohort.slides["status"][int(slide)].as_py())

    @property
    def embedded_slides(self) -> np.ndarray:
        """Increasing numbers of the slides that are embedded and scored in each round."""
        return np.sort(np.concatenate([self.train, self.validation]))

    def mask_of(self, slides: np.ndarray) -> np.ndarray:
        """Return which patches belong to `slides`, (N,) bool."""
        chosen = np.zeros(self.cohort.num_slides, bool)
        chosen[slides] = True
        return np.repeat(chosen, self.cohort.patches_per_slide)

    def patches_of(self, slides: np.ndarray) -> np.ndarray:
        """Return the increasing ids of the patches of `slides`, int32 where `id_type` allows it."""
        rows = self.rows_of(np.unique(slides))
        ids = np.empty(rows.num_rows, id_type(self.cohort.num_patches))
        for first_row, (first, stop) in zip(rows.starts.tolist(), rows.bounds.tolist(), strict=True):
            ids[first_row : first_row + stop - first] = np.arange(first, stop)
        return ids

    def rows_of(self, slides: np.ndarray) -> "SlideRows":
        """Return the patches of increasing `slides` as rows, one slide after another."""
        return SlideRows(np.stack([self.cohort.patch_bounds[slides], self.cohort.patch_bounds[slides + 1]], axis=1))

    def num_patches_of(self, slides: np.ndarray) -> int:
        """Return how many patches `slides` have."""
        return int(self.cohort.patches_per_slide[slides].sum())

    def patients_of(self, slides: np.ndarray) -> np.ndarray:
        """Return the patients of `slides`, in their order, (s,) of str."""
        patients: np.ndarray = self.cohort.slides["patient_id"].to_numpy()[slides]
        return patients

    def drawn_by(self, slides: np.ndarray) -> np.ndarray:
        """Return what intervals over `slides` draw whole, (s,): their patients, or sites, see `is_drawn_by_site`."""
        return self.cohort.sites[slides] if self.is_drawn_by_site(slides) else self.patients_of(slides)

    def is_drawn_by_site(self, slides: np.ndarray) -> bool:
        """Return whether splits are by site, and `slides` of many."""
        return self.split_by != "patient" and can_draw_sites(self.cohort.sites[slides])

    @property
    def kinds(self) -> np.ndarray:
        """(N,) int8, made anew: 1 patch of a positive training slide, 0 of a negative one, -1 of one that does not train.

        Of a training patch that people have judged it is their label, whatever its slide's is.
        """
        of_slide = np.where(self.encoder_slides, self.labels, -1).astype(np.int8)
        kinds = np.repeat(of_slide, self.cohort.patches_per_slide)
        kinds[self.known.ids] = self.known.labels
        return kinds

    @cached_property
    def known(self) -> Corrections:
        """The corrections of training slides; others are not looked at."""
        return self.corrections.where(self.encoder_slides[self.cohort.patches.slide[self.corrections.ids]])

    @property
    def slide_groups(self) -> np.ndarray:
        """(S,) int64: slides of one label and one split share a number; only they may stand in for each other."""
        part = np.zeros(self.cohort.num_slides, np.int64)
        for number, slides in enumerate((self.train, self.validation, self.test), start=1):
            part[slides] = number
        return 3 * part + self.labels

    @property
    def encoder_patches(self) -> np.ndarray:
        """Increasing ids of the patches that train the encoder."""
        return self.patches_of(np.flatnonzero(self.encoder_slides))


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


def open_study(cohort: Cohort, config: DataConfig, seed: int) -> Study:
    """Give each slide its part.

    Raises:
        InputError: a column is missing, a split lacks positive or negative slides, or truth is needed and unknown.
    """
    labels, splits = cohort.labels(config.label_column), cohort.splits(config.split_column)
    corrections = read_corrections(cohort.root, cohort.fingerprint)
    if config.witness_rate is not None:
        cohort.require_pictures("data.witness_rate")
        keep = thin_to_witness_rate(cohort, labels, config.witness_rate, seed)
        cohort, corrections = cohort.restricted(keep), corrections.restricted(keep)
    usable = (labels >= 0) & (np.diff(cohort.patch_bounds) > 0)
    train, validation, test = (np.flatnonzero(usable & (splits == name)) for name in SPLITS)
    for name, slides in (("train", train), ("validation", validation)):
        for label, word in ((1, "positive"), (0, "negative")):
            if not np.any(labels[slides] == label):
                raise InputError(
                    f"{cohort.root / 'slides.parquet'}: the {name} split has no {word} slide with patches (columns "
                    f"{config.label_column!r}, {config.split_column!r}). Training needs both: change the split in "
                    "slides.csv and tile again, or choose other columns with data.label_column, data.split_column"
                )
    encoder_slides = usable & np.isin(splits, config.encoder_splits)
    without = {name: np.flatnonzero((labels >= 0) & ~usable & (splits == name)) for name in SPLITS}
    return Study(
        cohort, labels, train, validation, test, encoder_slides, without, config.split_by, corrections
    )


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
