"""All pictures of a run: run/figures/*.png, and run/figures/heatmaps/<slide>.jpg.

A picture that the data do not define (an ROC of one class) is left out with the reason in its place; nothing else is lost.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import simplejpeg
import torch

from hnm.report.heatmap import ScoredPatches, draw_heatmap
from hnm.report.record import RunRecord
from shards.cohort.annotations import read_annotation
from shards.cohort.frame import frame_of_row
from shards.cohort.slides import slide_key
from shards.errors import InputError
from shards.files import whole_file
from shards.reading.reader import PatchReader
from shards.resample import resize
from shards.tiling.mpp import patch_level0_of
from shards.tiling.slide_reader import open_slide

HEATMAP_PX, LEAST_HEATMAP_PX = 900, 420  # longest side; small images are enlarged to be seen
JPEG_QUALITY = 85
EMPTY_GROUND = 235


# Heading and caption of each picture, in the report's order.
TEXTS = {
    "curves": (
        "ROC, precision and recall",
        "The bands are where 95 % of curves lie when patients are drawn anew (bootstrap). The threshold was chosen on validation "
        "slides.",
    ),
    "confusion": (
        "Right and wrong at the threshold",
        "The worst mistakes are named: look at their heatmaps in the table of slides.",
    ),
    "calibration": (
        "Calibration",
        "Are eight of ten slides that score 0.8 positive? Training takes as many positive as negative slides: in a cohort of few "
        "positive ones scores are too high.",
    ),
    "froc": (
        "Lesions found",
        "FROC: each local maximum of a slide's patch scores is a detection. A lesion is found at the score of its best one.",
    ),
    "scores_by_round": (
        "Scores by round",
        "Positive and negative slides should part; a patch of a positive slide may well be negative.",
    ),
    "training": (
        "Training",
        "From events.jsonl. Witness rate: how many of the mined positives are truly positive, where patch truth is known; "
        "mimics (tile.mimic_groups) are known to look like a tumour and to be none. Nothing is chosen by either.",
    ),
    "hard_negatives": (
        "Hard negatives by round",
        "Patches of slides without tumour that the model takes for tumour, with slide and score.",
    ),
    "positives": (
        "Positive candidates by round",
        "Where patch truth is known, the frame tells: green, 'true', is truly positive; orange, 'false', is not.",
    ),
    "embedding": (
        "Map of the features",
        "A sample of the patches, the mined ones more often than they occur, by the encoder at the start and at the end.",
    ),
}


@dataclass(frozen=True)
class Picture:
    """One picture of the report.

    Attributes:
        name: of its file, without the ending.
        title: its heading.
        caption: what is to be seen.
        path: the file; None where it could not be drawn.
        reason: why not.
    """

    name: str
    title: str
    caption: str
    path: Path | None = None
    reason: str = ""


def draw_pictures(record: RunRecord, reader: PatchReader, device: torch.device, folder: Path) -> list[Picture]:
    """Draw all pictures but the heatmaps into `folder`, and return them in the report's order."""
    from hnm.report import draw_curves as picture_curves
    from hnm.report import draw_embedding as picture_embedding
    from hnm.report import draw_patches as picture_patches
    from hnm.report import draw_quality as picture_quality
    from hnm.report import draw_rounds as picture_rounds

    split, slides = record.judged
    labels, scores = record.study.labels[slides], record.by_slide[slides]
    patients, names = record.patients[slides], record.study.cohort.slide_ids[slides]
    seed, threshold = record.config.seed, record.threshold
    draw: dict[str, Callable[[Path], None]] = {
        "curves": lambda path: picture_curves.draw_curves(
            path, labels, scores, patients, threshold, split, seed, record.intervals
        ),
        "confusion": lambda path: picture_curves.draw_confusion(path, labels, scores, threshold, split, names),
        "calibration": lambda path: picture_quality.draw_calibration(path, labels, scores, split),
        "froc": lambda path: picture_quality.draw_froc(path, _froc(record)),
        "scores_by_round": lambda path: picture_rounds.draw_histograms(path, record),
        "training": lambda path: picture_rounds.draw_training(path, record),
        "hard_negatives": lambda path: picture_patches.draw_hard_negatives(path, record, reader),
        "positives": lambda path: picture_patches.draw_positives(path, record, reader),
        "embedding": lambda path: picture_embedding.draw_embedding(path, record, reader, device),
    }
    names = [name for name in TEXTS if name != "froc" or record.knows_truth]  # without annotations there is no lesion
    return [drawn_or_not(name, *TEXTS[name], draw[name], folder / f"{name}.png") for name in names]


def _froc(record: RunRecord) -> Mapping[str, Any]:
    """Return the FROC that `hnm evaluate` has measured.

    Raises:
        InputError: there is none.
    """
    if record.metrics is None:
        raise InputError("it is measured on the test slides: run hnm evaluate")
    froc: Mapping[str, Any] | None = record.metrics.get("froc")
    if froc is None or froc["score"] is None:
        raise InputError(
            "no test slide has a lesion that counts: outlined, or of positive patches, and at least 275 um long"
        )
    return froc


def drawn_or_not(name: str, title: str, caption: str, draw: Callable[[Path], None], path: Path) -> Picture:
    """Draw one picture at `path`; where the data do not define it, return the reason in its place."""
    try:
        draw(path)
    except InputError as error:
        path.unlink(missing_ok=True)  # of an earlier report: it would be believed
        return Picture(name, title, caption, None, str(error))
    return Picture(name, title, caption, path)


def draw_heatmaps(record: RunRecord, slides: Iterable[int], folder: Path) -> dict[int, Path]:
    """Draw the heatmap of each of `slides` that was scored; return the files by slide number."""
    paths = {}
    for slide in slides:
        patches = scored_patches(record, slide)
        if not np.isfinite(patches.scores).any():
            continue
        path = folder / f"{slide_key(str(record.study.cohort.slide_ids[slide]))}.jpg"
        thumbnail, level0_per_px = _ground(record, slide, patches)
        picture = draw_heatmap(thumbnail, level0_per_px, patches, record.patch_threshold, true_area(record, slide))
        with whole_file(path) as temporary:
            temporary.write_bytes(simplejpeg.encode_jpeg(picture, JPEG_QUALITY, "RGB", "420"))
        paths[slide] = path
    return paths


def scored_patches(record: RunRecord, slide: int) -> ScoredPatches:
    """Return the patches of a slide with their scores."""
    cohort = record.study.cohort
    own = slice(*cohort.patch_bounds[slide : slide + 2].tolist())
    size = patch_level0_of(cohort, slide)
    return ScoredPatches(cohort.patches.x_level0[own], cohort.patches.y_level0[own], size, record.by_patch[own])


def true_area(record: RunRecord, slide: int) -> shapely.Geometry | None:
    """Return what was annotated, else the union of the truly positive patches, level-0 pixels; None: neither is known."""
    cohort, patches = record.study.cohort, scored_patches(record, slide)
    if (annotated := annotated_area(record, slide)) is not None:
        return annotated
    truth = cohort.patches.truth[slice(*cohort.patch_bounds[slide : slide + 2].tolist())]
    if not np.any(truth >= 0):
        return None
    left, top = (at[truth == 1].astype(np.float64) for at in (patches.x_level0, patches.y_level0))
    area = shapely.union_all(shapely.box(left, top, left + patches.size_level0, top + patches.size_level0))
    return area if area.geom_type in ("Polygon", "MultiPolygon") else shapely.MultiPolygon()


def annotated_area(record: RunRecord, slide: int) -> shapely.Geometry | None:
    """Return the area of a slide's annotation file, None if it has none or the file is gone."""
    cohort, tile = record.study.cohort, record.config.tile
    if "annotation" not in cohort.slides.column_names or not (name := cohort.slides["annotation"][slide].as_py()):
        return None
    try:
        read = read_annotation(Path(name), tile.negative_groups, tile.positive_groups, skip_bad_outlines=True)
    except InputError:
        return None
    area = frame_of_row(cohort.slides.slice(slide, 1).to_pylist()[0]).to_level0(read).area
    return None if area.is_empty else area  # a file of points has no area


def _ground(record: RunRecord, slide: int, patches: ScoredPatches) -> tuple[np.ndarray, float]:
    """Return a thumbnail and its level-0 pixels per pixel; a plain ground where the slide's file is not there any more."""
    row = record.study.cohort.slides.slice(slide, 1).to_pylist()[0]
    try:
        with open_slide(Path(row["path"])) as opened:
            thumbnail, level0_per_px = opened.thumbnail(HEATMAP_PX)
    except InputError:
        width = row["width"] or int(patches.x_level0.max()) + patches.size_level0
        height = row["height"] or int(patches.y_level0.max()) + patches.size_level0
        level0_per_px = max(width, height) / HEATMAP_PX
        shape = (max(1, round(height / level0_per_px)), max(1, round(width / level0_per_px)), 3)
        return np.full(shape, EMPTY_GROUND, np.uint8), level0_per_px
    longest = max(thumbnail.shape[:2])
    if longest >= LEAST_HEATMAP_PX:
        return thumbnail, level0_per_px
    factor = LEAST_HEATMAP_PX / longest
    height, width = (max(1, round(side * factor)) for side in thumbnail.shape[:2])
    return resize(thumbnail, width, height), level0_per_px / factor
