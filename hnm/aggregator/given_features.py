"""A cohort without pictures, of features that another tool has computed: for aggregators and frozen baselines.

    slides.csv + a file per slide ──▶ cohort/  slides.parquet, patches.parquet, features/ (as a run's, see bags.py)

No shard is there: what needs pictures (pretraining, fine-tuning rounds, embedding) is refused in words. The numbers are the
files' own, bit for bit. Where a file has coordinates and says how large its patches are, annotations give truth.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hnm.aggregator.bags import file_of_rows, write_index
from shards.cohort.annotations import read_annotation, require_on_slide
from shards.cohort.cohort import FEATURES
from shards.cohort.slides import Slide
from shards.cohort.truth import truth_of
from shards.errors import InputError
from shards.exchange.features import SUFFIXES, ForeignFeatures, read_features
from shards.exchange.names import files_of_slides
from shards.files import write_array
from shards.progress import Progress
from shards.tiling.merge import alone, merge_cohort
from shards.tiling.mpp import level0_px
from shards.tiling.sites import UNKNOWN, Sites
from shards.tiling.tile import first_label, slides_of_table
from shards.tiling.tile_config import TileConfig
from shards.tiling.tile_summary import TileSummary
from shards.tiling.unit import Unit, annotation_fields, unit_path, write_pictureless_unit

NO_PLACE = -1  # coordinate of a patch whose place is unknown
OF_PICTURES = {name for name in TileConfig.model_fields if name not in (
    "truth_share", "positive_groups", "negative_groups", "skip_bad_outlines", "max_failed", "allow_unlabelled",
    "validation_share", "test_share", "split_by", "split_seed", "patch_px", "mpp", "assume_mpp",
)}  # fmt: skip
NO_USE = "its file of features does not tell both where the patches are and how large"


@dataclass
class Given:
    """What is the same for all slides: taken from the first that says it, and held against the others."""

    dim: int | None = None
    patch_px: int | None = None
    target_mpp: float | None = None
    num_without_places: int = 0


def import_features(
    slides_csv: Path,
    folder: Path,
    cohort: Path,
    name: str | None,
    config: TileConfig,
    progress: Progress,
    positive: Sequence[str] = (),
) -> tuple[TileSummary, Given, list[str]]:
    """Write a cohort of the features in `folder`.

    Args:
        slides_csv: the table of slides; the column path may be missing.
        name: which of several matrices, where files hold more than one.
        config: how splits are drawn, what annotations are taken as, how many slides may fail.
        positive: words that are positive labels (data.positive).

    Returns:
        The summary, what the files have in common, and warnings.

    Raises:
        InputError: a table or file has a mistake, files differ, or too many slides have none.
    """
    slides, split_drawn, warnings = slides_of_table(slides_csv, config, False, positive)
    if idle := sorted(config.model_fields_set & OF_PICTURES):
        warnings = [*warnings, f"without effect on features: {', '.join(f'tile.{name}' for name in idle)}"]
    files = files_of_slides(folder, slides, SUFFIXES)
    if (cohort / "shards").exists():
        raise InputError(f"{cohort}: holds a cohort with pictures. Choose another folder, or remove it")
    with alone(cohort):
        (cohort / "cohort.json").unlink(missing_ok=True)
        shutil.rmtree(cohort / FEATURES, ignore_errors=True)
        given, units, names, start, digest = Given(), [], [], 0, hashlib.sha256()
        annotated = any(slide.annotation for slide in slides)
        for slide in progress(slides, "importing", len(slides)):
            unit, features = _import_one(slide, files.get(slide.slide_id), name, config, cohort, given, annotated)
            units.append(unit)
            if features is not None:
                names.append(file_of_rows(start, start + len(features)))
                write_array(cohort / FEATURES / names[-1], features)
                digest.update(features.tobytes())
                start += len(features)
        if start:
            write_index(
                cohort / FEATURES, np.arange(len(slides)), np.array([unit.num_patches for unit in units]), names
            )
        settings = config.model_dump(mode="json") | _settings(given)
        about = asdict(given) | {"digest": digest.hexdigest()}
        summary = merge_cohort(slides, units, cohort, settings, config.max_failed, about)
    return replace(summary, split_drawn=split_drawn, split_by=config.split_by, num_tiled=summary.num_done), given, warnings


def _import_one(
    slide: Slide, path: Path | None, name: str | None, config: TileConfig, cohort: Path, given: Given, annotated: bool
) -> tuple[Unit, np.ndarray | None]:
    """Write one slide's unit; return it, and the features if there are any."""
    nothing = Sites(*(np.empty(0, np.int32),) * 2, np.empty(0, np.int8))
    if path is None:
        unit = Unit("", "failed: there is no file of features for this slide. Make it, or remove the row")
        write_pictureless_unit(unit_path(cohort, slide), unit, nothing)
        return unit, None
    found = read_features(path, name)
    _hold_against(found, given)
    is_silent = found.patch_level0 is None and found.xy_level0 is not None  # CLAM's files are
    if is_silent and "patch_px" in config.model_fields_set:
        side = level0_px(config.patch_px, config.mpp, found.mpp or slide.mpp or config.assume_mpp)
        found = replace(found, patch_level0=side, patch_px=config.patch_px, target_mpp=config.mpp)
    is_negative = annotated and first_label(slide) == 0
    sites, told = _sites(found, slide, config, is_negative)
    width, height = found.size or (None, None)
    unit = Unit(
        "", "done" if len(sites) else "empty: its file has no patch", width, height, found.mpp or slide.mpp,
        "table" if slide.mpp else "", len(sites), patch_level0=found.patch_level0, **told,
    )  # fmt: skip
    write_pictureless_unit(unit_path(cohort, slide), unit, sites)
    return unit, found.features if len(sites) else None


def _sites(
    found: ForeignFeatures, slide: Slide, config: TileConfig, is_negative: bool
) -> tuple[Sites, dict[str, Any]]:
    """Return where a slide's patches are with their truth, and what a `Unit` says of its annotation."""
    num = len(found.features)
    truth = np.full(num, 0 if is_negative else UNKNOWN, np.int8)
    told = {"annotation_problem": NO_USE} if slide.annotation is not None else {}
    if found.xy_level0 is None:
        nowhere = np.full(num, NO_PLACE, np.int32)
        return Sites(nowhere, nowhere, truth), told
    x, y = found.xy_level0.T.astype(np.int32)
    if slide.annotation is not None and found.patch_level0 is not None:
        annotation = read_annotation(
            slide.annotation, config.negative_groups, config.positive_groups, config.skip_bad_outlines
        )
        if found.size is not None:
            require_on_slide(annotation, slide.annotation, *found.size)
        if not (annotation.problem and is_negative):
            truth = truth_of(annotation, x, y, found.patch_level0, config.truth_share)
        told = annotation_fields(annotation)
    return Sites(x, y, truth), told


def _hold_against(found: ForeignFeatures, given: Given) -> None:
    """Note what the first file says, and refuse one that says otherwise.

    Raises:
        InputError: naming both numbers.
    """
    dim = found.features.shape[1]
    if not len(found.features):
        return
    if given.dim is not None and dim != given.dim:
        raise InputError(
            f"{found.path}: {dim} numbers a patch, {given.dim} in the files before. Give features of one encoder"
        )
    given.dim = dim
    given.num_without_places += found.xy_level0 is None
    for name in ("patch_px", "target_mpp"):
        now, then = getattr(found, name), getattr(given, name)
        if now is not None and then is not None and abs(now - then) > 0.01 * then:
            raise InputError(
                f"{found.path}: {name} is {now:g}, {then:g} in the files before. Give features of patches of one kind"
            )
        if then is None:
            setattr(given, name, now)


def _settings(given: Given) -> dict[str, Any]:
    known = {"patch_px": given.patch_px, "mpp": given.target_mpp}
    return {name: value for name, value in known.items() if value is not None}
