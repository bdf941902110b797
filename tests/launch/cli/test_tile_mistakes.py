"""Mistakes in slides.csv and its images: named with row and column, and nothing is written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command_line import assert_refused, hnm
from tests.launch.cli.conftest import Row
from tests.tiny import TILE


def all_labels(value: str) -> Callable[[list[Row]], None]:
    def change(rows: list[Row]) -> None:
        for row in rows:
            row["label"] = value

    return change


MISTAKES: dict[str, tuple[Callable[[list[Row]], None], tuple[str, ...]]] = {
    "duplicate slide": (
        lambda rows: rows.append(dict(rows[1])),
        ("row 12, column slide_id", "already in row 3", "Keep one"),
    ),
    "label 2": (lambda rows: rows[0].update(label="2"), ("row 2, column label: '2'", "0 or 1")),
    "slide in two splits": (
        lambda rows: rows.append({**rows[0], "split": "test"}),
        ("row 12", "two splits", "'train' in row 2", "Keep one row"),
    ),
    "patient in two splits": (
        lambda rows: rows[1].update(patient_id="patient-000"),
        ("row 3, column split", "patient 'patient-000' is in two splits", "Put all slides of a patient into one split"),
    ),
    "no positive slide": (all_labels("0"), ("column label: no positive slide", "add some")),
    "no negative slide": (all_labels("1"), ("column label: no negative slide", "add some")),
}


def test_a_missing_image_is_a_failed_slide(slides: Callable[..., Path], tmp_path: Path) -> None:
    table = slides(lambda rows: rows[2].update(path="gone.png"))
    result = hnm("tile", table, tmp_path / "cohort", "--workers", "1", *TILE)
    assert_refused(
        result, 1, "1 of 10 slides failed", "gone.png: there is no such file", "its row in slides.csv", "max_failed"
    )
    assert not list((tmp_path / "cohort").glob("*.parquet"))
    assert not (tmp_path / "cohort" / "cohort.json").exists()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_the_table_are_named_and_nothing_is_written(
    slides: Callable[..., Path], tmp_path: Path, mistake: str
) -> None:
    change, parts = MISTAKES[mistake]
    result = hnm("tile", slides(change), tmp_path / "cohort", *TILE)
    assert_refused(result, 1, "error: ", str(tmp_path / "slides.csv"), *parts)
    assert not (tmp_path / "cohort").exists()


def test_an_unreadable_image_is_named_and_there_is_no_cohort_until_it_is_mended(
    slides: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image at all")
    table = slides(lambda rows: rows[3].update(path=str(tmp_path / "broken.png")))
    result = hnm("tile", table, tmp_path / "cohort", *TILE)
    assert_refused(result, 1, "1 of 10 slides failed", "slide-003", "broken.png", "no cohort was written", "max_failed")
    assert not (tmp_path / "cohort" / "cohort.json").exists()
    assert_refused(hnm("pretrain", tmp_path / "cohort", tmp_path / "out"), 1, "no cohort here", "hnm tile")
    assert not (tmp_path / "out").exists()
    slides(lambda rows: None)
    result = hnm("tile", table, tmp_path / "cohort", *TILE)
    assert result.exit_code == 0
    assert "10 slides: 10 done, 0 empty, 0 failed; 1 tiled now" in result.stdout
