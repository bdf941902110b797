"""Who plays which part: the slides of a cohort that train, choose and test, with their labels."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hnm.run.slide_rows import SlideRows
from hnm.run.targets import Targets, refuse_classes, require_both, targets_of_columns, targets_of_words
from hnm.run.witness_rate import thin_to_witness_rate
from hnm.statistics.bootstrap import can_draw_sites
from shards.cohort.cohort import Cohort
from shards.cohort.corrections import Corrections, read_corrections
from shards.cohort.label_words import words_of_setting
from shards.cohort.slides import SPLITS
from shards.cohort.source_sites import SplitBy
from shards.errors import InputError
from shards.reading.plan import id_type


class DataConfig(BaseModel):
    """Which columns of slides.parquet are used, and for what."""

    model_config = ConfigDict(extra="forbid")

    label_column: str = Field(
        "label",
        description="column of the slide labels: 1, 0 or empty (such slides take no part); or of words, each a class, learned "
        "against the others. Several columns of 1 and 0: targets",
    )
    targets: list[str] = Field(
        [],
        description="label columns (1, 0 or empty each) that one run learns together: one encoder; scores, hard negatives and "
        "thresholds for each. [] = label_column alone",
    )
    classes: list[str] = Field(
        [], description="words of label_column that are classes; slides with others take no part. [] = all that are found"
    )
    negative_class: str | None = Field(
        None, description="word of label_column for slides of no class, such as normal; null = every slide is of one"
    )
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

    @model_validator(mode="after")
    def _is_one_way(self) -> "DataConfig":
        for name in ("targets", "classes"):
            if len(set(given := getattr(self, name))) < len(given):
                raise ValueError(f"data.{name} names something twice. Name each once")
        if self.targets and (self.classes or self.negative_class is not None):
            raise ValueError("data.targets are columns of 1 and 0, data.classes and data.negative_class are words of one column")
        if len(self.targets) == 1:
            self.label_column, self.targets = self.targets[0], []
        return self

    def one_column(self, asked_by: str) -> str:
        """Return the one label column, for what carries one only.

        Raises:
            InputError: there are several targets.
        """
        if self.targets:
            raise InputError(
                f"data.targets has {len(self.targets)} targets ({', '.join(self.targets)}), but {asked_by} carries one only, not "
                f"several yet. Name one: data.label_column={self.targets[0]}"
            )
        return self.label_column


@dataclass(frozen=True)
class Study:
    """A cohort with the parts its slides play.

    Attributes:
        cohort: the slides and patches.
        labels: (S,) int8: 1, 0, or -1 for slides that take no part; of several targets: joined, see `Targets.joined`.
        train, validation, test: increasing slide numbers; every one has a label and at least one patch.
        encoder_slides: (S,) bool, the slides whose patches train the encoder.
        without_patch: by split the increasing numbers of the slides that have a label and gave no patch; they take no part.
        split_by: what no two splits are to share.
        corrections: patches that people have judged (hnm cohort correct).
        targets: where the run learns several; each is a study of its own (`of_target`). None: `labels` are its one target.
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
    targets: Targets | None = None

    def of_target(self, target: int) -> "Study":
        """Return the study of one of several targets: its labels, and of the slides those that have one.

        Patch truth, mimics and corrections do not say which target they are of: they are unknown there.
        """
        assert self.targets is not None
        labels = self.targets.labels[target]
        known = labels >= 0
        parts = {name: (slides := getattr(self, name))[known[slides]] for name in SPLITS}
        without = {name: slides[known[slides]] for name, slides in self.without_patch.items()}
        unknown = np.broadcast_to(np.int8(-1), self.cohort.num_patches)  # no memory of its own
        cohort = replace(self.cohort, patches=replace(self.cohort.patches, truth=unknown), mimics=None)
        changes = {"encoder_slides": self.encoder_slides & known, "without_patch": without, "targets": None}
        changes["corrections"] = Corrections.none()
        return replace(self, cohort=cohort, labels=labels, **parts, **changes)

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

    def rows_of(self, slides: np.ndarray) -> SlideRows:
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
        """(N,) int8, made anew: 1 patch of a positive training slide, 0 of a negative one, -1 of one that does not train."""
        of_slide = np.where(self.encoder_slides, self.labels, -1).astype(np.int8)
        return np.repeat(of_slide, self.cohort.patches_per_slide)

    @cached_property
    def known(self) -> Corrections:
        """The corrections of training slides; others are not looked at."""
        return self.corrections.where(self.encoder_slides[self.cohort.patches.slide[self.corrections.ids]])

    @property
    def slide_groups(self) -> np.ndarray:
        """(S,) int64: slides of the same labels and one split share a number; only they may stand in for each other."""
        part = np.zeros(self.cohort.num_slides, np.int64)
        for number, slides in enumerate((self.train, self.validation, self.test), start=1):
            part[slides] = number
        return 3 * part + self.labels if self.targets is None else part + 4 * self.targets.groups

    @property
    def encoder_patches(self) -> np.ndarray:
        """Increasing ids of the patches that train the encoder."""
        return self.patches_of(np.flatnonzero(self.encoder_slides))


def open_study(cohort: Cohort, config: DataConfig, seed: int, one_for: str | None = None) -> Study:
    """Give each slide its part.

    Args:
        one_for: what carries one target only, in words; None: whoever asks carries several.

    Raises:
        InputError: a column is missing, a split lacks positive or negative slides, or truth is needed and unknown; several
            targets where one is carried.
    """
    splits, (labels, targets) = cohort.splits(config.split_column), labels_of(cohort, config)
    corrections = read_corrections(cohort.root, cohort.fingerprint)
    if targets is not None:
        _refuse_several(targets, config, one_for)
        if num := len(corrections.ids):
            told = f"{num:,} corrected patches do not say which target they are of, and are not looked at (hnm cohort correct)"
            targets = replace(targets, told=(*targets.told, told))
    if config.witness_rate is not None:
        cohort.require_pictures("data.witness_rate")
        keep = thin_to_witness_rate(cohort, labels, config.witness_rate, seed)
        cohort, corrections = cohort.restricted(keep), corrections.restricted(keep)
    usable = (labels >= 0) & (np.diff(cohort.patch_bounds) > 0)
    train, validation, test = (np.flatnonzero(usable & (splits == name)) for name in SPLITS)
    columns = {config.label_column: labels}
    if targets is not None:
        columns = {targets.column_of(target): its for target, its in enumerate(targets.labels)}
    key = "data.targets" if config.targets else "data.label_column"
    for column, its in columns.items():
        require_both(its, {"train": train, "validation": validation}, (column, config.split_column), key, cohort)
    encoder_slides = usable & np.isin(splits, config.encoder_splits)
    without = {name: np.flatnonzero((labels >= 0) & ~usable & (splits == name)) for name in SPLITS}
    parts = (train, validation, test, encoder_slides, without)
    return Study(cohort, labels, *parts, split_by=config.split_by, corrections=corrections, targets=targets)


def labels_of(cohort: Cohort, config: DataConfig) -> tuple[np.ndarray, Targets | None]:
    """Return the slide labels (S,) int8 of the run's one target, or those joined and all its targets."""
    if config.targets:
        targets = targets_of_columns(cohort, config.targets)
        return targets.joined, targets
    if (words := cohort.words(config.label_column)) is None:
        refuse_classes(cohort, config.label_column, config.classes, config.negative_class)
        return cohort.labels(config.label_column), None
    where = f"{cohort.root / 'slides.parquet'}, column {config.label_column!r}"
    targets = targets_of_words(words, config.label_column, config.classes, config.negative_class or "", where)
    return (targets.labels[0], None) if len(targets.names) == 1 else (targets.joined, targets)


def _refuse_several(targets: Targets, config: DataConfig, one_for: str | None) -> None:
    """Refuse several targets where one is carried, and settings that are of one."""
    key = f"data.label_column={targets.column}" if targets.are_classes else "data.targets"
    if config.witness_rate is not None:
        raise InputError(f"data.witness_rate is of one target; {key} has {len(targets.names)}. Leave either out")
    if one_for is not None:
        config.one_column(one_for)
        raise InputError(
            f"{key} holds {len(targets.names)} classes ({', '.join(targets.names)}), but {one_for} carries one yes or no only, "
            "not several yet. Name one class and its contrary: "
            f"data.classes=[{targets.names[0]}] data.negative_class={targets.names[-1]}"
        )
