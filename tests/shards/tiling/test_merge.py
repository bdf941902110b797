"""Units become a cohort: counts, warnings, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from shards.cohort.slides import Slide
from shards.errors import InputError
from shards.tiling.merge import alone, finished_units, merge_cohort
from shards.tiling.unit import Unit, slide_job


def slides_of(num: int) -> list[Slide]:
    return [Slide(f"s{n}", Path(f"s{n}.png"), f"p{n}", {"label": n % 2}, {"split": "train"}, None) for n in range(num)]


def refusal(units: list[Unit], cohort: Path, max_failed: float, settings: dict[str, Any] | None = None) -> str:
    with pytest.raises(InputError) as error:
        merge_cohort(slides_of(len(units)), units, cohort, settings or {}, max_failed)
    return str(error.value)


def test_as_many_failures_as_allowed_and_not_one_more(tmp_path: Path) -> None:
    units = [Unit("f", "failed: torn")] * 2 + [Unit("f", "empty: glass")] * 8
    assert "2 of 10 slides failed, more than max_failed (0.19)" in refusal(units, tmp_path, 0.19)
    allowed = refusal(units, tmp_path, 0.2)
    assert "none of 10 slides gave a patch (2 failed)" in allowed
    assert "s0: failed: torn\n" in allowed
    assert "s9: empty: glass" in allowed


def test_a_long_list_of_failures_is_cut_and_says_so(tmp_path: Path) -> None:
    text = refusal([Unit("f", "failed: torn")] * 100, tmp_path, 0.0)
    assert text.count("failed: torn") == 20
    assert text.endswith("... and 80 more")


def test_the_old_cohort_is_gone_before_anything_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cohort.json").write_text("{}")
    refusal([Unit("f", "failed: torn")], tmp_path, 0.0)
    assert not (tmp_path / "cohort.json").exists()


def test_slides_that_are_not_tiled_are_named(tmp_path: Path) -> None:
    jobs = [slide_job(slide, None, {}) for slide in slides_of(3)]
    unsaved = {"s0": Unit(jobs[0].fingerprint, "failed: no room"), "s2": Unit(jobs[2].fingerprint, "failed: no room")}
    with pytest.raises(InputError, match=r"1 of 3 slides are not tiled with these settings yet, such as 's1'"):
        finished_units(jobs, tmp_path, unsaved)
    assert finished_units(jobs[::2], tmp_path, unsaved) == [unsaved["s0"], unsaved["s2"]]


def test_who_merges_alone_clears_what_a_crash_has_left(tmp_path: Path) -> None:
    (tmp_path / ".patches.parquet.123.tmp").write_text("half")
    with alone(tmp_path):
        assert (tmp_path / "locks" / "merge.lock").is_file()
        assert not list(tmp_path.glob(".*.tmp"))
    assert not (tmp_path / "locks" / "merge.lock").exists()
