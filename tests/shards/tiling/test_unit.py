"""One slide's unit: what makes it stale, and what is kept of it."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.cohort.slides import Slide
from shards.tiling.sites import Points, Sites
from shards.tiling.tar import Entry
from shards.tiling.unit import (
    SlideJob,
    Unit,
    finished_unit,
    is_fresh,
    read_unit,
    read_unit_rows,
    slide_job,
    unit_path,
    write_unit,
)

SETTINGS: dict[str, Any] = {"patch_px": 16, "mpp": None}


@pytest.fixture
def slide(tmp_path: Path) -> Slide:
    (tmp_path / "a.png").write_bytes(b"pixels")
    (tmp_path / "a.xml").write_text("outline")
    return Slide("a.1", tmp_path / "a.png", "p", {"label": 1}, {"split": "train"}, 0.5, tmp_path / "a.xml")


def points_at(x: float, truth: int = 1) -> Points:
    return Points(np.array([[x, 20.0]]), np.array([truth], np.int8))


def test_whatever_changes_the_patches_changes_the_fingerprint(slide: Slide) -> None:
    def fingerprint(changed: Slide = slide, points: Points | None = None, **settings: Any) -> str:
        return slide_job(changed, points, SETTINGS | settings).fingerprint

    assert fingerprint() == fingerprint()
    # labels and splits are the merge's, not the unit's: a corrected label cuts nothing again
    assert fingerprint(replace(slide, labels={"label": 0}, splits={"split": "test"})) == fingerprint()
    others = [
        fingerprint(patch_px=32),
        fingerprint(background=["none"]),
        fingerprint(background=["otsu_saturation"]),
        fingerprint(replace(slide, mpp=0.25)),
        fingerprint(points=points_at(20)),
        fingerprint(points=points_at(21)),
        fingerprint(points=points_at(20, truth=0)),
        slide_job(slide, None, SETTINGS, is_negative=True).fingerprint,
    ]
    before = fingerprint()
    assert slide.annotation is not None
    slide.annotation.write_text("another outline")
    others.append(fingerprint())
    os.utime(slide.path, (1, 1))
    others.append(fingerprint())
    slide.path.unlink()
    others.append(fingerprint())
    assert len({before, *others}) == len(others) + 1


def write_done(job: SlideJob, cohort: Path, status: str = "done") -> Unit:
    """Write a tar of two JPEGs in name only, and its unit."""
    tar = cohort / "shards" / "a_1-0000.tar"
    tar.parent.mkdir(parents=True)
    tar.write_bytes(bytes(100))
    unit = Unit(job.fingerprint, status, width=40, height=30, num_patches=2, tars={tar.name: 100})
    sites = Sites(np.array([0, 16], np.int32), np.array([0, 3], np.int32), np.array([1, -1], np.int8))
    write_unit(unit_path(cohort, job.slide), unit, sites, [Entry(tar.name, 10, 20), Entry(tar.name, 40, 50)])
    return unit


def test_a_unit_and_its_rows_come_back_as_written(slide: Slide, tmp_path: Path) -> None:
    job, cohort = slide_job(slide, None, SETTINGS), tmp_path / "cohort"
    unit = write_done(job, cohort)
    assert read_unit(unit_path(cohort, slide)) == unit
    assert read_unit_rows(unit_path(cohort, slide)).to_pydict() == {
        "x_level0": [0, 16], "y_level0": [0, 3], "shard": [0, 0], "offset": [10, 40], "nbytes": [20, 50], "truth": [1, -1],
    }  # fmt: skip
    assert finished_unit(job, cohort) == unit
    assert is_fresh(job, cohort)
    assert not is_fresh(slide_job(slide, None, SETTINGS | {"mpp": 0.5}), cohort)


def test_a_unit_is_done_only_with_all_of_its_tars(slide: Slide, tmp_path: Path) -> None:
    job, cohort = slide_job(slide, None, SETTINGS), tmp_path / "cohort"
    assert finished_unit(job, cohort) is None
    write_done(job, cohort)
    tar = cohort / "shards" / "a_1-0000.tar"
    tar.write_bytes(bytes(99))  # cut short
    assert finished_unit(job, cohort) is None
    tar.unlink()
    assert finished_unit(job, cohort) is None


def test_a_failed_unit_is_finished_but_tried_again(slide: Slide, tmp_path: Path) -> None:
    job, cohort = slide_job(slide, None, SETTINGS), tmp_path / "cohort"
    unit = write_done(job, cohort, status="failed: torn")
    assert unit.failed
    assert finished_unit(job, cohort) == unit
    assert not is_fresh(job, cohort)
