"""shards.reading.check: a sound cohort has no problem; each kind of damage is found, named and counted."""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from shards.cohort.cohort import Cohort
from shards.reading.check import CheckReport, check_cohort

MakeCohort = Callable[..., Cohort]
Damage = Callable[..., None]


def check(cohort: Cohort, deep: bool = False) -> CheckReport:
    return check_cohort(cohort, deep, 2, lambda iterable, description, total: iterable)


@pytest.fixture
def cohort(make_cohort: MakeCohort) -> Cohort:
    return make_cohort()


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_cohort(cohort: Cohort, deep: bool) -> None:
    report = check(cohort, deep)
    assert report.is_sound
    assert (report.num_patches, report.num_shards, report.num_broken) == (21, 3, 0)


def test_progress_sees_every_shard(cohort: Cohort) -> None:
    calls = []

    def progress(iterable: Iterable[Any], description: str, total: int) -> Iterable[Any]:
        for item in iterable:
            calls.append((description, total))
            yield item

    check_cohort(cohort, False, 1, progress)
    assert calls == [("check", 3)] * 3


def test_damaged_patches_are_named(cohort: Cohort, damage: Damage) -> None:
    damage(cohort, 3)
    damage(cohort, 8)
    (first, second) = check(cohort).damaged
    assert (first.shard, first.num_patches, first.num_broken) == ("slide0-0000.tar", 7, 1)
    assert first.problems[0].startswith("patch 3 of slide 'slide0' (offset ")
    assert first.problems[0].endswith("no JPEG: its first or last marker is missing")
    assert "patch 8 " in second.problems[0]


def test_only_deep_sees_inside_a_jpeg(cohort: Cohort, damage: Damage) -> None:
    damage(cohort, 3, b"\xff\xd8" + bytes(100))
    assert check(cohort).is_sound
    assert check(cohort, deep=True).num_broken == 1


def test_a_missing_shard_and_one_cut_short(cohort: Cohort) -> None:
    cohort.shard_path(0).unlink()
    os.truncate(cohort.shard_path(2), int(cohort.patches.offset[19]))
    missing, short = check(cohort).damaged
    assert (missing.num_broken, missing.problems) == (7, ["the shard is missing"])
    assert short.num_broken == 2
    assert "cut short" in short.problems[0]


def test_a_table_of_another_build(cohort: Cohort, make_cohort: MakeCohort) -> None:
    other = make_cohort(counts=(7, 5, 9), px=40, name="other")
    os.replace(other.shard_path(1), cohort.shard_path(1))
    (report,) = check(cohort).damaged
    assert report.num_broken == 5
    assert any("the tar says" in problem or "no tar header" in problem for problem in report.problems)


def test_members_that_the_table_lacks(cohort: Cohort) -> None:
    middle, last = np.arange(21) != 2, np.arange(21) != 20
    assert "begins a member" in check(replace(cohort, patches=cohort.patches.take(middle))).damaged[0].problems[0]
    assert "goes on at byte" in check(replace(cohort, patches=cohort.patches.take(last))).damaged[0].problems[0]


def test_a_damaged_header(cohort: Cohort) -> None:
    with open(cohort.shard_path(1), "r+b") as file:
        file.seek(3)
        file.write(b"x")
    assert "no tar header before it" in check(cohort).damaged[0].problems[0]


def test_many_problems_are_counted_and_the_first_listed(make_cohort: MakeCohort) -> None:
    cohort = make_cohort(counts=(40,), slides=(0,))
    os.truncate(cohort.shard_path(0), 512)
    (report,) = check(cohort).damaged
    assert report.num_broken == 40
    assert len(report.problems) == 11  # the tar itself and 10 patches


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("shard", 3, "cohort.json does not list"), ("slide", 9, "slides.parquet does not have"), ("offset", 3, "offset")],
)
def test_a_wrong_table(cohort: Cohort, column: str, value: int, message: str) -> None:
    patches = cohort.patches.take(np.arange(21))
    getattr(patches, column)[20] = value
    report = check(replace(cohort, patches=patches))
    assert not report.is_sound
    assert message in report.table_problems[0]


def test_slides_that_count_otherwise(cohort: Cohort) -> None:
    slides = cohort.slides.append_column("num_patches", pa.array([12, 8]))
    assert "num_patches of slide 'slide1'" in check(replace(cohort, slides=slides)).table_problems[0]
