"""What `hnm predict` writes, slide by slide: a slide is done when its patches' file stands there; another run goes on.

OUT/ predictions.parquet         a row per slide, failed ones with the reason
     top_patches.csv             the highest patches of each slide: x, y, score, heatmap
     patches/<key>.parquet       x_level0, y_level0, score of each patch; written last
     heatmaps/<key>.png          scores over the thumbnail
     geojson/<key>.geojson       positive patches as polygons, for QuPath
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hnm.model.model import Model
from hnm.model.predict import PredictedSlide
from hnm.model.top_patches import write_top_of_predictions
from hnm.report.heatmap import ScoredPatches, draw_heatmap, geojson, overlap, positive_area
from shards.cohort.annotations import Annotation
from shards.cohort.content import content_of
from shards.cohort.frame import Frame
from shards.cohort.slides import Slide
from shards.errors import InputError
from shards.files import whole_file
from shards.resample import resize

HEATMAP_PX, LEAST_HEATMAP_PX = 1600, 420
METADATA_KEY = b"hnm.prediction"
MPP_SLACK = 1.05
MAX_TAKEN = 3  # names that an error lists
NOT_USED = "its annotation is not used"  # begins the remark on a slide


@dataclass(frozen=True)
class Row:
    """A slide's row in predictions.parquet.

    Attributes:
        slide_id: its name.
        path: its file.
        label: as the table gives it, else None.
        score: 0 to 1, None where there is none.
        predicted: 1 where the score reaches `threshold`.
        threshold: of slides.
        num_patches: scored.
        num_positive_patches: at or above `patch_threshold`.
        patch_threshold: of patches.
        patch_level0: side of a patch, level-0 pixels.
        mpp: microns per pixel at level 0, None if unknown.
        iou: of the positive patches with the annotation, None without one.
        status: "done", "empty: reason" or "failed: reason".
        remark: what one should know.
        fingerprint: of slide, settings and model.
        seen: why this slide is no test of the model, as it was trained on it or chosen by it; else "".
        content: of its file, see `shards.cohort.content`; "" where it could not be read.
        patient_id: whose slide it is; "" in a table of before 2026-11-28.
        colours: of its patches by name, see `hnm.statistics.colour`; beside the patches, not in the table. None: unknown.
    """

    slide_id: str
    path: str
    label: int | None
    score: float | None
    predicted: int | None
    threshold: float
    num_patches: int
    num_positive_patches: int
    patch_threshold: float
    patch_level0: int | None
    mpp: float | None
    iou: float | None
    status: str
    remark: str
    fingerprint: str
    seen: str = ""
    content: str = ""
    patient_id: str = ""
    colours: dict[str, float] | None = None

    @property
    def failed(self) -> bool:
        return self.status.startswith("failed")

    @property
    def is_missed(self) -> bool:
        """Whether it is a positive slide that gave no patch: nothing of it was called positive."""
        return self.label == 1 and self.status.startswith("empty")


def row_of(slide: Slide, label: int | None, result: PredictedSlide, model: Model, fingerprint: str) -> Row:
    """Return what the table says of a slide that was read."""
    about, annotation = model.about, result.survey.annotation
    iou = None
    if annotation is not None and not annotation.area.is_empty:
        iou = overlap(positive_area(result.patches, about.patch_threshold), annotation.area)
    return Row(
        slide_id=slide.slide_id,
        path=str(slide.path),
        label=label,
        score=result.score,
        predicted=None if result.score is None else int(result.score >= about.slide_threshold),
        threshold=about.slide_threshold,
        num_patches=len(result.patches.scores),
        num_positive_patches=len(result.patches.at_or_above(about.patch_threshold)),
        patch_threshold=about.patch_threshold,
        patch_level0=result.patches.size_level0,
        mpp=result.survey.source_mpp,
        iou=iou,
        status=f"empty: {result.why_empty}" if result.score is None else "done",
        remark="; ".join(
            filter(
                None,
                [
                    remark_on(result.survey.source_mpp, model),
                    remark_on_annotation(annotation),
                    frame_remark(result.survey.frame),
                ],
            )
        ),
        fingerprint=fingerprint,
        patient_id=slide.patient_id,
        colours=result.colours.figures() or None,
    )


def failed_row(slide: Slide, label: int | None, reason: str, model: Model, fingerprint: str) -> Row:
    """Return the row of a slide that could not be read."""
    about, nothing = model.about, None
    thresholds = about.slide_threshold, 0, 0, about.patch_threshold
    return Row(
        slide.slide_id, str(slide.path), label, nothing, nothing, *thresholds, nothing, nothing, nothing,
        f"failed: {reason}", "", fingerprint, patient_id=slide.patient_id,
    )  # fmt: skip


def remark_on(mpp: float | None, model: Model) -> str:
    """Return a warning where a slide's native pixels are of another size than those of training, else ""."""
    seen = model.about.data["source_mpp"]
    if model.config.tile.mpp is not None or not seen or mpp is None:
        return ""
    if seen[0] / MPP_SLACK <= mpp <= seen[1] * MPP_SLACK:
        return ""
    return (
        f"{mpp:.3g} microns per pixel, but the model was trained on native pixels of slides of {seen[0]:.3g} to {seen[1]:.3g}: "
        "the tissue looks larger or smaller to it"
    )


def remark_on_annotation(annotation: Annotation | None) -> str:
    """Return why there is nothing to compare with, where an annotation does not say what is positive, else ""."""
    return f"{NOT_USED}: {annotation.problem}" if annotation is not None and annotation.problem else ""


def frame_remark(frame: Frame) -> str:
    """Return where the coordinates of a slide's polygons and annotation count from, if there is a choice, else ""."""
    if not frame.name:
        return ""
    if frame.name == "level0":
        return "the scan begins inside level 0: polygons and annotation count from the corner of level 0, QuPath's do not"
    return (
        f"the scan begins at ({frame.x_level0}, {frame.y_level0}) of level 0: polygons and annotation count from "
        "there, as QuPath's do"
    )


def write_slide(out: Path, slide: Slide, row: Row, result: PredictedSlide) -> None:
    """Write heatmap, polygons and, last, the patches of one slide."""
    survey, threshold = result.survey, row.patch_threshold
    area = survey.annotation.area if survey.annotation is not None else None
    picture = draw_heatmap(*_ground(survey.thumbnail, survey.level0_per_px), result.patches, threshold, area)
    with whole_file(out / "heatmaps" / f"{slide.key}.png") as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
    polygons = geojson(result.patches, threshold, frame=survey.frame)
    with whole_file(out / "geojson" / f"{slide.key}.geojson") as temporary:
        temporary.write_text(json.dumps(polygons, allow_nan=False) + "\n", encoding="utf-8")
    write_patches(out, slide, row, result.patches)


def write_patches(out: Path, slide: Slide, row: Row, patches: ScoredPatches) -> None:
    """Write the patches of one slide with its row: it is done."""
    columns = {
        "x_level0": np.asarray(patches.x_level0, np.int32),
        "y_level0": np.asarray(patches.y_level0, np.int32),
        "score": np.asarray(patches.scores, np.float32),
    }
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(asdict(row)).encode()})
    with whole_file(patches_path(out, slide)) as temporary:
        pq.write_table(table, temporary)


def patches_path(out: Path, slide: Slide) -> Path:
    """Return where a slide's patch scores lie."""
    return out / "patches" / f"{slide.key}.parquet"


def done_row(out: Path, slide: Slide, label: int | None, fingerprint: str) -> Row | None:
    """Return the row of a slide that an earlier run has done with the same model and settings, else None."""
    row = _written_row(out, slide)
    is_done = row is not None and row.fingerprint == fingerprint
    return replace(row, label=label, patient_id=slide.patient_id) if row is not None and is_done else None


def _written_row(out: Path, slide: Slide) -> Row | None:
    try:
        content: dict[str, Any] = json.loads(pq.read_schema(patches_path(out, slide)).metadata[METADATA_KEY])
        return Row(**content)
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError):  # none, cut short, or of an older version
        return None


def refuse_taken_names(out: Path, slides: Sequence[Slide], contents: Sequence[str]) -> None:
    """Refuse slides that have the name of another slide whose prediction is there: it would be replaced.

    Args:
        out: the folder.
        slides: that are to be predicted.
        contents: of their files, see `shards.cohort.content`; a slide that was moved is the same slide.

    Raises:
        InputError: the slides and those of their names, or the table is damaged.
    """
    by_name = {row.slide_id.casefold(): row for row in rows_of_others(out, set())}
    taken = []
    for slide, content in zip(slides, contents, strict=True):
        there = by_name.get(slide.slide_id.casefold()) or _written_row(out, slide)
        if there is not None and not _is_same(there, slide, content):
            taken.append(f"{slide.slide_id!r} is {there.path} there, {slide.path} here")
    if taken:
        shown = "; ".join(taken[:MAX_TAKEN]) + (" ..." if len(taken) > MAX_TAKEN else "")
        raise InputError(
            f"{out}: {len(taken)} slides have the name of another slide, whose prediction there would be replaced: {shown}. "
            "Give a table slides.csv with another slide_id for each, or another --out"
        )


def _is_same(there: Row, slide: Slide, content: str) -> bool:
    if there.path == str(slide.path):
        return True
    its = there.content or content_of(Path(there.path))
    return its == content if its else there.failed  # of a file that could not be read at all nothing is lost


SCHEMA = pa.schema(
    [
        ("slide_id", pa.string()), ("path", pa.string()), ("label", pa.int8()), ("score", pa.float64()),
        ("predicted", pa.int8()), ("threshold", pa.float64()), ("num_patches", pa.int64()),
        ("num_positive_patches", pa.int64()), ("patch_threshold", pa.float64()), ("patch_level0", pa.int32()),
        ("mpp", pa.float64()), ("iou", pa.float64()), ("status", pa.string()), ("remark", pa.string()),
        ("seen", pa.string()), ("content", pa.string()), ("patient_id", pa.string()),
    ]
)  # fmt: skip


def rows_of_others(out: Path, slide_ids: set[str]) -> list[Row]:
    """Return what predictions.parquet already says of other slides than these, in its order.

    Raises:
        InputError: the table is damaged, or not of `hnm predict`.
    """
    path = out / "predictions.parquet"
    if not path.is_file():
        return []
    try:
        rows = pq.read_table(path, schema=SCHEMA).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a table of hnm predict ({error}). Remove it, or give another --out") from error
    for row in rows:  # tables of before 2026-11-28 have none of them
        row |= {name: row[name] or "" for name in ("seen", "content", "patient_id")}
    return [Row(**row, fingerprint="") for row in rows if row["slide_id"] not in slide_ids]


def write_table(out: Path, rows: Sequence[Row]) -> None:
    """Write predictions.parquet, and the highest patches of each slide."""
    write_top_of_predictions(out, rows)
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    with whole_file(out / "predictions.parquet") as temporary:
        pq.write_table(pa.table(columns, schema=SCHEMA), temporary)


def _ground(thumbnail: np.ndarray, level0_per_px: float) -> tuple[np.ndarray, float]:
    """Return the thumbnail at a size to look at, and its level-0 pixels per pixel."""
    longest = max(thumbnail.shape[:2])
    factor = min(max(longest, LEAST_HEATMAP_PX), HEATMAP_PX) / longest
    if factor == 1:
        return thumbnail, level0_per_px
    height, width = (max(1, round(side * factor)) for side in thumbnail.shape[:2])
    return resize(thumbnail, width, height), level0_per_px / factor
