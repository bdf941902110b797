"""A cohort that was tiled again with other labels, patients or splits is told from the one that a run has seen."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnm.run.seen import changes, leaked, read_seen, seen_of, shown_to_encoder
from shards.cohort.cohort import Cohort
from tests.command_line import assert_refused, hnm
from tests.tiny import TINY, tiny_config

DATA = tiny_config().data


@pytest.fixture
def again(tiny_cohort: Path, tmp_path: Path) -> Path:
    """A copy of the cohort, to be changed."""
    shutil.copytree(tiny_cohort, tmp_path / "again")
    return tmp_path / "again"


def with_values(cohort: Path, column: str, values: dict[str, object]) -> Path:
    """Change a column of slides.parquet for the slides named, as tiling again with another table does."""
    table = pq.read_table(cohort / "slides.parquet")
    names = table["slide_id"].to_pylist()
    new = [values.get(name, old) for name, old in zip(names, table[column].to_pylist(), strict=True)]
    place = table.column_names.index(column)
    table = table.set_column(place, table.schema.field(place), pa.array(new, table.schema.field(place).type))
    pq.write_table(table, cohort / "slides.parquet")
    return cohort


def of_split(cohort: Path, split: str) -> list[str]:
    table = pq.read_table(cohort / "slides.parquet")
    pairs = zip(table["slide_id"].to_pylist(), table["split"].to_pylist(), strict=True)
    return [str(name) for name, its in pairs if its == split]


def test_what_changed_is_named(tiny_cohort: Path, again: Path) -> None:
    then = seen_of(Cohort.open(tiny_cohort), DATA)
    assert changes(then, then) == leaked(then, then) == []
    trained, tested = of_split(again, "train")[0], of_split(again, "test")[0]
    with_values(again, "split", {trained: "test", tested: "train"})
    with_values(again, "label", {tested: None})
    now = seen_of(Cohort.open(again), DATA)
    label, split = changes(then, now)
    assert label.startswith("label of 1 of 10 slides (")
    assert label.endswith(f"{tested}: {then['label'].to_pylist()[now['slide_id'].to_pylist().index(tested)]} -> none)")
    assert split.startswith("split of 2 of 10 slides (")
    assert f"{trained}: train -> test" in split
    assert leaked(then, now) == [trained]


def test_another_slide_of_a_patient_that_trained_is_a_leak_too(tiny_cohort: Path, again: Path) -> None:
    then = seen_of(Cohort.open(tiny_cohort), DATA)
    tested = of_split(again, "test")[0]
    patient = pq.read_table(again / "slides.parquet")["patient_id"].to_pylist()[then["split"].to_pylist().index("validation")]
    with_values(again, "patient_id", {tested: patient})
    assert leaked(then, seen_of(Cohort.open(again), DATA)) == [tested]


def test_test_slides_that_pretrained_the_encoder_are_named(tiny_cohort: Path, again: Path) -> None:
    then = seen_of(Cohort.open(tiny_cohort), DATA)
    assert shown_to_encoder(then, then) == []
    trained, other = of_split(again, "train")[:2]
    with_values(again, "split", {trained: "test"})
    now = seen_of(Cohort.open(again), DATA)
    assert shown_to_encoder(then, now) == [trained]
    assert shown_to_encoder(then.slice(0, 0), now) == []
    tested = of_split(tiny_cohort, "test")[0]
    patient = pq.read_table(tiny_cohort / "slides.parquet")["patient_id"].to_pylist()[then["slide_id"].to_pylist().index(other)]
    with_values(again, "patient_id", {tested: patient})
    assert shown_to_encoder(then, seen_of(Cohort.open(again), DATA)) == [
        name for name in then["slide_id"].to_pylist() if name in (trained, tested)
    ]


def test_training_goes_on_with_the_same_values_only(finished_run: Path, again: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    assert read_seen(run) is not None
    train = ("train", again, run, "--preset", "hnm", "--ranks", "1", *TINY)
    assert hnm(*train).exit_code == 0
    slide = of_split(again, "train")[0]
    with_values(again, "patient_id", {slide: "somebody else"})
    assert_refused(hnm(*train), 1, "tiled again since", f"patient_id of 1 of 10 slides ({slide}: ")


def test_what_trained_is_never_tested_and_what_else_changed_is_told(finished_run: Path, again: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    trained, (one, two) = of_split(again, "train")[0], of_split(again, "test")
    evaluate = ("evaluate", run, "--cohort", again, "--ranks", "1", "--no-report")
    with_values(again, "split", {trained: "test"})
    assert_refused(hnm(*evaluate), 1, "1 slides would be tested that the model has learned from", trained)
    assert not (run / "metrics.json").exists()
    with_values(again, "split", {trained: "train"})
    with_values(again, "patient_id", {one: "p", two: "p"})
    done = hnm(*evaluate)
    assert done.exit_code == 0, done.output
    assert "warning: " in done.stderr
    assert "patient_id of 2 of 10 slides" in done.stderr
