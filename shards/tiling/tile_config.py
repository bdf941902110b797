"""The settings of `hnm tile`: section `tile` of the configuration."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from shards.cohort.groups import Roles

BackgroundFilter = Literal["auto", "none", "edge_energy", "white_fraction", "canny_std", "otsu_saturation"]

# Files of the cohort's own slides: nothing of them goes on to others, and units without them know nothing of them.
OF_ITS_SLIDES = ("coords", "tissue_masks", "artefact_masks")


class TileConfig(BaseModel):
    """Where patches are cut from the slides, and how they are stored."""

    model_config = ConfigDict(extra="forbid")

    patch_px: int = Field(224, ge=1, description="Side of a stored patch, pixels.")
    stride_px: int | None = Field(
        None,
        ge=1,
        description="From one grid tile to the next, pixels of the stored patch; none: patch_px, no overlap.",
    )
    mpp: float | None = Field(
        None,
        gt=0,
        description="Microns per pixel of the stored patches: slides are scaled to it, and one without an mpp fails. "
        "None: level-0 pixels as they are.",
    )
    assume_mpp: float | None = Field(
        None, gt=0, description="Microns per pixel at level 0 of slides of which neither table nor file tells it."
    )
    jpeg_quality: int = Field(90, ge=1, le=100, description="JPEG quality, 1 to 100; higher: larger files.")
    jpeg_subsampling: Literal[444, 420] = Field(
        444,
        description="444 stores colour at every pixel, 420 at every fourth: a third smaller and faster to cut and to read, "
        "finest colour is blurred.",
    )
    keep_jpeg: bool = Field(
        False,
        description="Where a patch is exactly a JPEG tile of its slide (same size, place and scale, no stain normalisation), "
        "store the slide's own bytes: no second loss. jpeg_quality and jpeg_subsampling are then the scanner's.",
    )
    shard_mb: int = Field(
        256, ge=1, description="Largest size of a tar, MB (10^6 bytes); a slide's next patches go to a new one."
    )
    background: list[BackgroundFilter] = Field(
        ["auto"],
        min_length=1,
        description="Filters that a patch has to pass, one or several: edge_energy (DSMIL), white_fraction and "
        "canny_std (DeepPATH), otsu_saturation (on the thumbnail). With any, glass on the thumbnail is never read. "
        "auto: otsu_saturation for whole slides, none for plain images and at points.",
    )
    min_edge_energy: float = Field(15.0, ge=0, description="edge_energy keeps patches above it; HNM-WSI took 30.")
    max_white_fraction: float = Field(
        0.25, ge=0, le=1, description="white_fraction keeps patches with up to this share of grey levels from 230 on."
    )
    min_canny_std: float = Field(10.0, ge=0, description="canny_std keeps patches at or above it; blank ones have 0.")
    min_tissue_share: float = Field(
        0.25, gt=0, le=1, description="otsu_saturation keeps patches with at least this share of tissue."
    )
    stain: Literal["none", "macenko", "reinhard"] = Field(
        "none", description="Stain normalisation, fitted on each slide's thumbnail."
    )
    truth_share: float = Field(
        0.5, gt=0, le=1, description="A patch is positive from this share of it in the annotated area on."
    )
    positive_groups: list[str] | None = Field(
        None, description="Annotation groups (classes) that are positive; none: all but negative_groups."
    )
    negative_groups: list[str] = Field(
        ["_2", "exclusion", "normal", "negative"],
        description="Annotation groups that are cut out of the positive area; Camelyon16's is _2.",
    )
    mimic_groups: list[str] = Field(
        [],
        description="Annotation groups (or classes of points_file) of tissue that is known to look like a tumour and is none: "
        "it is told how many of the mined negatives are such. Nothing is trained or chosen by it.",
    )
    skip_bad_outlines: bool = Field(
        False, description="Leave out (and count) outlines of fewer than three vertices; false: their slide fails."
    )
    annotation_frame: Literal["qupath", "level0"] = Field(
        "qupath",
        description="Where annotations and points count from on slides whose scan begins inside level 0 "
        "(openslide.bounds: MRXS, SCN, some BIF): qupath, the scan's corner; level0, level 0's (ASAP, HALO).",
    )
    points_file: Path | None = Field(
        None,
        description="CSV with image,x,y,class (level-0 pixels): a patch is cut at each point instead of on the grid. "
        "A relative path starts at the folder of slides.csv.",
    )
    positive_class: str | None = Field(
        None,
        description="The class in points_file whose patches are positive; all others are not. None: truth unknown.",
    )
    tissue_masks: Path | None = Field(
        None,
        description="Folder with a mask of tissue for each slide (GeoJSON, or PNG of the whole slide): patches with at least "
        "min_tissue_share of it are kept, and background=auto adds no filter. Relative paths start at the folder of slides.csv.",
    )
    artefact_masks: Path | None = Field(
        None, description="Likewise of pen, folds or blur: patches at least half of which lie in it are dropped."
    )
    coords: Path | None = Field(
        None,
        description="Folder with a file of coordinates for each slide (HDF5 of TRIDENT, CLAM, AtlasPatch; hs2p's npz): just "
        "these patches are cut. A relative path starts at the folder of slides.csv.",
    )
    max_failed: float = Field(
        0.0, ge=0, le=1, description="Share of slides that may fail; with more, no cohort is written."
    )
    allow_unlabelled: bool = Field(
        False, description="Accept a table without positive or without negative slides: for prediction, not training."
    )
    validation_share: float = Field(
        0.2, ge=0, lt=1, description="Share of patients drawn for validation if slides.csv has no split column."
    )
    test_share: float = Field(
        0.2, ge=0, lt=1, description="Share of patients drawn for test; the rest is for training."
    )
    split_by: Literal["patient", "site"] = Field(
        "patient",
        description="What is drawn whole: patients; or sites, the hospitals (column site of slides.csv, or TCGA's barcode), none "
        "of which is then in two splits.",
    )
    split_seed: int = Field(0, ge=0, description="Seed of that draw.")

    @field_validator("background", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("positive_groups", "negative_groups", "mimic_groups", mode="before")
    @classmethod
    def _groups_are_texts(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what YAML does not take for the name that was meant: `Tumor: Positive` is a mapping, 2 a number."""
        names = value if isinstance(value, list) else [] if value is None else [value]
        if all(isinstance(name, str) for name in names):
            return value if value is None else names
        meant = [text for name in names for text in _texts(name)]
        raise ValueError(
            "YAML does not take this for names: a colon and a space make a mapping, and a number is none. Quote it: "
            f"'tile.{info.field_name}={json.dumps(meant, ensure_ascii=False)}'"
        )

    @model_validator(mode="after")
    def _fields_fit_together(self) -> "TileConfig":
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share + test_share must be below 1: something has to be left for training")
        if self.positive_class is not None and self.points_file is None:
            raise ValueError("positive_class needs points_file: set points_file, or remove positive_class")
        if self.coords is not None and self.points_file is not None:
            raise ValueError("coords and points_file both say where to cut. Remove one of them")
        self._refuse_positive_mimics()
        alone = {"none", "auto"} & set(self.background)
        if alone and len(self.background) > 1:
            name = min(alone)
            raise ValueError(f"background: {name} goes with no other filter. Remove {name}, or the others")
        return self

    def _refuse_positive_mimics(self) -> None:
        if self.points_file is not None:
            positive = [name for name in self.mimic_groups if name == self.positive_class]
        else:
            roles = Roles(self.positive_groups, self.negative_groups)
            positive = [name for name in self.mimic_groups if roles.of(name) == "positive"]
        if positive:
            raise ValueError(
                f"mimic_groups: {positive[0]!r} counts as positive. Name the groups of the tumour in positive_groups, or put "
                f"{positive[0]!r} into negative_groups"
            )

    def filters_of(self, is_whole_slide: bool, is_at_points: bool) -> list[str]:
        """Return the background filters that a slide's patches have to pass; none is an empty list.

        Args:
            is_whole_slide: whether it is a pyramid, not a plain image.
            is_at_points: whether its patches are cut at the points of a file.
        """
        if self.background == ["auto"]:
            decides = is_whole_slide and not is_at_points and self.tissue_masks is None
            return ["otsu_saturation"] if decides else []
        return [name for name in self.background if name != "none"]


def _texts(name: Any) -> list[str]:
    """Return the names that were meant by what YAML made of them."""
    return [f"{key}: {its}" for key, its in name.items()] if isinstance(name, dict) else [str(name)]
