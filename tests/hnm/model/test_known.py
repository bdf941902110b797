"""A model knows the slides that it was trained on or chosen by: by name, by patient, by the bytes of the file."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hnm.model.export import export
from hnm.model.known import SEEN_FILE, KnownSlides, known_slides, read_known
from hnm.model.labelled import labelled_lines
from hnm.model.model import open_exported
from hnm.model.predictions import Row
from hnm.report.record import RunRecord
from launch.verbs.predict import open_record
from shards.cohort.content import content_of
from shards.cohort.slides import Slide
from shards.errors import InputError
from tests.hnm.model.test_predict import CPU

AUC_ELSEWHERE = "AUC, intervals by patient, calibration, drift: hnm validate m t.csv (what is scored there is not scored again)"


@pytest.fixture(scope="module")
def record(finished_run: Path) -> RunRecord:
    return open_record(finished_run, None)


@pytest.fixture(scope="module")
def known(record: RunRecord) -> KnownSlides:
    return known_slides(record)


def of_split(record: RunRecord, split: str) -> Slide:
    """Return the first slide of a split."""
    row = next(row for row in record.study.cohort.slides.to_pylist() if row["split"] == split)
    return Slide(row["slide_id"], Path(row["path"]), row["patient_id"], {}, {}, None)


@pytest.mark.parametrize(("split", "verb"), [("train", "was trained on"), ("validation", "was chosen by")])
def test_a_slide_is_known_again_however_it_comes(
    record: RunRecord, known: KnownSlides, tmp_path: Path, split: str, verb: str
) -> None:
    slide = of_split(record, split)
    copy = shutil.copy(slide.path, tmp_path / "renamed.png")
    other, stranger = tmp_path / "other.png", "somebody"
    other.write_bytes(b"another slide")
    for name, path, patient, what in (
        ("renamed", Path(copy), stranger, "it"),
        (slide.slide_id.upper(), other, stranger, "a slide of that name"),
        ("new", other, slide.patient_id, "another slide of its patient"),
    ):
        told = known.told(Slide(name, path, patient, {}, {}, None), content_of(path))
        assert told == f"the model {verb} {what}"
    assert known.told(Slide("new", other, stranger, {}, {}, None), content_of(other)) == ""
    test = of_split(record, "test")
    assert known.told(test, content_of(test.path)) == ""


def test_an_export_holds_hashes_that_are_checked(record: RunRecord, known: KnownSlides, tmp_path: Path) -> None:
    export(record, tmp_path / "model")
    model = open_exported(tmp_path / "model", CPU)
    assert model.known is not None
    assert model.known.splits == known.splits
    assert model.about.known["slides"] == model.about.known["by_content"] == 8  # 6 train, 2 validate
    assert "seen.parquet` holds hashes of the names and patients of the 8" in (tmp_path / "model" / "MODEL.md").read_text()
    pq.write_table(pq.read_table(tmp_path / "model" / SEEN_FILE).slice(1), tmp_path / "model" / SEEN_FILE)
    with pytest.raises(InputError, match=r"not the slides that model\.json names"):
        open_exported(tmp_path / "model", CPU)
    (tmp_path / "model" / SEEN_FILE).write_bytes(b"no table")
    with pytest.raises(InputError, match=r"seen.parquet: not the slides that a model has seen"):
        read_known(tmp_path / "model" / SEEN_FILE)


def row(name: str, label: int | None, score: float | None, seen: str = "", status: str = "done") -> Row:
    predicted = None if score is None else int(score >= 0.5)
    return Row(name, f"/{name}.svs", label, score, predicted, 0.5, 4, 1, 0.5, 16, None, None, status, "", "", seen)


def test_no_figure_counts_what_was_seen_and_each_counts_what_was_missed() -> None:
    tested = [row("a", 1, 0.9), row("b", 0, 0.2), row("c", 0, 0.3), row("unlabelled", None, 0.9)]
    assert labelled_lines(tested, True, "hnm validate m t.csv") == ["3 of them have a label: 3 called right", AUC_ELSEWHERE]
    seen = [row("s", 0, 0.99, "the model was trained on it"), row("t", 1, None, "the model was chosen by it", "empty: no tissue")]
    told, figures, _ = labelled_lines([*tested, *seen], True, "")
    assert "2 of 5 slides with a label are no test of this model and are in no figure: s (the model was trained on it)" in told
    assert figures == "3 of them have a label: 3 called right"
    lost = [row(name, label, None, status="empty: no tissue") for name, label in (("m", 1), ("n", 0))]
    lost.append(row("f", 1, None, status="failed: damaged"))
    figures, missed, left_out, _ = labelled_lines([*tested, *lost], True, "")
    assert figures == "4 of them have a label: 3 called right"
    assert missed.startswith("1 of these are positive and gave no patch (m): they count as missed, with score 0.")
    assert missed.endswith("Without them: 3 called right")
    assert left_out.startswith("2 with a label have no score")
    older, *_ = labelled_lines(tested, False, "")
    assert "this export does not say which slides it was trained on" in older
    assert labelled_lines([row("unlabelled", None, 0.9)], False, "") == []
