"""FROC of test slides, from tables: lesions from annotations or patches, peaks of the scores."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hnm.evidence.compare_patches import OpenedRun, compare_froc, told_by_metrics
from hnm.evidence.detect import froc_part, lesions_of_slide
from hnm.evidence.measure import warnings_of
from hnm.run.study import DataConfig, Study, open_study
from shards.cohort.cohort import Cohort, Patches
from shards.drawn.drawn_slides import write_asap

SIDE, GRID = 100, 8  # level-0 pixels, 50 um; patches a row


def study_on_a_grid(**columns: Any) -> Study:
    """Six slides of 8 x 8 patches at 0.5 um/px; 3 (negative), 4 and 5 (positive) are tested; two lesions in 4, one in 5."""
    slide = np.repeat(np.arange(6, dtype=np.int32), GRID * GRID)
    row, column = np.divmod(np.arange(6 * GRID * GRID) % (GRID * GRID), GRID)
    truth = np.zeros(len(slide), np.int8)
    for number, rows, cols in ((0, 1, 1), (1, 1, 1), (4, slice(1, 3), slice(1, 3)), (4, 6, slice(5, 8)), (5, 4, 4)):
        truth.reshape(6, GRID, GRID)[number, rows, cols] = 1
    zeros = np.zeros(len(slide), np.int32)
    places = (column * SIDE).astype(np.int32), (row * SIDE).astype(np.int32)
    patches = Patches(slide, *places, zeros, zeros.astype(np.int64), zeros, truth)
    table = {
        "slide_id": [f"s{i}" for i in range(6)],
        "patient_id": [f"p{i}" for i in range(6)],
        "label": pa.array([1, 1, 0, 0, 1, 1], pa.int8()),
        "split": ["train", "validation", "train", "test", "test", "test"],
        "source_mpp": [0.5] * 6,
        **columns,
    }
    settings = {"patch_px": 50, "mpp": 1.0, "negative_groups": [], "positive_groups": None}
    cohort = Cohort(Path("cohort"), {"settings": settings}, pa.table(table), patches)
    labels = cohort.labels()
    parts = [np.flatnonzero(np.array(table["split"]) == name) for name in ("train", "validation", "test")]
    return Study(cohort, labels, *parts, encoder_slides=np.isin(np.arange(6), parts[0]))


def heat(study: Study, peaks: dict[tuple[int, int, int], float]) -> np.ndarray:
    """Return patch scores: 0.05, sloping away from the given (slide, row, column) peaks, and NaN where nothing is tested."""
    scores = np.full((6, GRID, GRID), 0.05)
    for (slide, row, column), score in peaks.items():
        scores[slide, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = score / 2
    for place, score in peaks.items():
        scores[place] = score
    scores = scores.ravel()
    scores[~study.mask_of(study.test)] = np.nan
    return scores


def test_lesions_from_patches_and_a_known_score() -> None:
    study = study_on_a_grid()
    # 0.9 finds the first lesion, 0.8 and 0.6 are false (4 and the negative slide), 0.7 finds that of slide 5; one is missed.
    scores = heat(study, {(4, 1, 2): 0.9, (4, 4, 4): 0.8, (5, 4, 4): 0.7, (3, 2, 2): 0.6})
    froc = froc_part(scores, study, seed=0)
    assert froc is not None
    assert (froc["num_lesions"], froc["num_slides"], froc["num_slides_left_out"]) == (3, 3, 0)
    assert froc["lesions_from"] == ["patches"]
    corners = list(zip(froc["curve"]["false_positives_per_slide"], froc["curve"]["sensitivity"], strict=True))
    assert corners[1:5] == [pytest.approx(xy) for xy in ((0, 0), (0, 1 / 3), (1 / 3, 1 / 3), (1 / 3, 2 / 3))]
    # The level background has one peak where it begins: at 0.05 it is a false positive, and the missed lesion's patches,
    # equal to their neighbours, are no peaks.
    assert froc["sensitivity_at"]["0.25"] == pytest.approx(1 / 3)
    assert froc["sensitivity_at"]["0.5"] == froc["sensitivity_at"]["8"] == pytest.approx(2 / 3)
    assert froc["score"] == pytest.approx((1 / 3 + 5 * 2 / 3) / 6)
    interval = froc["interval"]
    assert interval["low"] <= froc["score"] <= interval["high"]


def test_lesions_from_the_annotation_that_the_table_names(tmp_path: Path) -> None:
    outline = np.array([[100, 100], [900, 100], [900, 400], [100, 400]])  # 400 um long: no isolated cells
    write_asap(tmp_path / "s4.xml", [("Tumor", outline)])
    study = study_on_a_grid(annotation=[None, None, None, None, str(tmp_path / "s4.xml"), str(tmp_path / "moved.xml")])
    drawn, source = lesions_of_slide(study, 4)
    assert drawn is not None
    assert source == "annotations"
    assert (len(drawn.areas), drawn.counted.tolist()) == (1, [True])
    assert drawn.areas[0].bounds == pytest.approx((25, 25, 975, 475))  # 37.5 um are 75 pixels
    froc = froc_part(heat(study, {(4, 2, 7): 0.9, (5, 4, 4): 0.7}), study, seed=0)
    assert froc is not None
    assert froc["lesions_from"] == ["annotations", "patches"]
    assert froc["num_lesions"] == 2
    assert froc["sensitivity_at"]["0.25"] == 1


def test_an_annotation_that_cannot_be_read_leaves_the_lesions_to_the_patches_or_unknown(tmp_path: Path) -> None:
    (tmp_path / "broken.xml").write_text("<ASAP")
    study = study_on_a_grid(annotation=[None, None, None, None, str(tmp_path / "broken.xml"), None])
    assert lesions_of_slide(study, 4)[1] == "patches"
    study.cohort.patches.truth[slice(*study.cohort.patch_bounds[4:6].tolist())] = -1
    assert lesions_of_slide(study, 4) == (None, "")


def test_an_annotation_counts_from_the_corner_that_the_table_names(tmp_path: Path) -> None:
    outline = np.array([[100, 100], [900, 100], [900, 400], [100, 400]])
    write_asap(tmp_path / "s4.xml", [("Tumor", outline)])
    frame = {"annotation_frame": ["qupath"] * 6, "frame_x_level0": [640] * 6, "frame_y_level0": [384] * 6}
    drawn, _ = lesions_of_slide(study_on_a_grid(annotation=[str(tmp_path / "s4.xml")] * 6, **frame), 4)
    assert drawn is not None
    assert drawn.areas[0].bounds == pytest.approx((25 + 640, 25 + 384, 975 + 640, 475 + 384))


def test_lesions_left_out_as_isolated_cells_are_counted_and_told(tmp_path: Path) -> None:
    large = np.array([[100, 100], [900, 100], [900, 400], [100, 400]])
    small = np.array([[650, 650], [700, 650], [700, 700], [650, 700]])  # 25 um, 100 with its margins
    write_asap(tmp_path / "large.xml", [("Tumor", large), ("Tumor", small)])
    write_asap(tmp_path / "small.xml", [("Tumor", small)])

    def of(*names: str) -> Study:
        return study_on_a_grid(annotation=[None, None, None, None, *(str(tmp_path / name) for name in names)])

    study = of("large.xml", "small.xml")
    froc = froc_part(heat(study, {(4, 2, 7): 0.9}), study, seed=0)
    assert froc is not None
    assert (froc["score"], froc["num_lesions"], froc["num_isolated_left_out"]) == (1, 1, 2)
    assert warnings_of(study, froc) == []
    study = of("small.xml", "small.xml")
    scores = heat(study, {(4, 2, 7): 0.9})
    froc = froc_part(scores, study, seed=0)
    assert froc == {
        "score": None, "interval": {"low": None, "high": None, "num_skipped": 0}, "num_lesions": 0, "num_slides": 3,
        "num_slides_left_out": 0, "num_isolated_left_out": 2, "lesions_from": ["annotations"],
    }  # fmt: skip
    (warning,) = warnings_of(study, froc)
    assert warning.startswith("all 2 lesions of the test slides are shorter than 275 um")
    assert told_by_metrics({"froc": froc}, {"froc": froc}) == {}
    run = OpenedRun(tmp_path, study, scores, {"froc": froc})
    assert compare_froc(run, run) == {}


def test_slides_of_unknown_lesions_are_left_out_and_counted() -> None:
    study = study_on_a_grid()
    truth = study.cohort.patches.truth.copy()
    truth[study.patches_of(np.array([4]))] = -1
    patches = replace(study.cohort.patches, truth=truth)
    partly = replace(study, cohort=replace(study.cohort, patches=patches))
    froc = froc_part(heat(partly, {(5, 4, 4): 0.7}), partly, seed=0)
    assert froc is not None
    assert (froc["num_lesions"], froc["num_slides"], froc["num_slides_left_out"]) == (1, 2, 1)
    nowhere = replace(study, cohort=replace(study.cohort, patches=replace(patches, truth=np.full_like(truth, -1))))
    assert froc_part(heat(nowhere, {}), nowhere, seed=0) is None


def test_the_study_is_one_that_open_study_accepts() -> None:
    splits = ["train", "validation", "train", "validation", "test", "test"]
    cohort = study_on_a_grid(label=pa.array([1, 1, 0, 0, 0, 1], pa.int8()), split=splits).cohort
    assert open_study(cohort, DataConfig(), 0).test.tolist() == [4, 5]
