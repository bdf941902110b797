"""The command line as a user meets it: help, exit codes (0 done, 1 failed, 2 misuse), and errors that can be mended."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from hnm.encoder.contrastive_model import fresh_model, save_model
from launch.cli.main import app
from tests.tiny import TILE, TINY, results_of, tiny_config

Row = dict[str, str]


def hnm(*arguments: str | Path) -> Result:
    """Run the command in this process; exceptions that are no messages to the user fail the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def assert_refused(result: Result, code: int, *parts: str) -> None:
    assert result.exit_code == code, result.output
    for part in parts:
        assert part in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["trian"],
        ["train"],
        ["train", "cohort"],
        ["train", "a", "b", "--ranks", "many"],
        ["train", "a", "b", "--rank", "2"],
    ],
)
def test_misuse_ends_with_2(arguments: list[str]) -> None:
    result = hnm(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


@pytest.fixture
def slides(tiny_slides: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function (change of the rows) -> slides.csv with absolute image paths."""

    def write(change: Callable[[list[Row]], None]) -> Path:
        with open(tiny_slides, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            row["path"] = str(tiny_slides.parent / row["path"])
        shutil.copy(tiny_slides.parent / "points.csv", tmp_path / "points.csv")
        change(rows)
        with open(tmp_path / "slides.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return tmp_path / "slides.csv"

    return write


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


@pytest.mark.parametrize("verb", ["tile", "pretrain", "train"])
@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("minning.neg_ratio=0.1", ("unknown key minning", "Did you mean 'mining'?")),
        ("mining.neg_ratio=7", ("mining.neg_ratio = 7", "less than or equal to 1")),
        ("--config=colonn", ("--config colonn", "Did you mean 'colon'?")),
    ],
)
def test_a_wrong_configuration_is_misuse(
    tiny_cohort: Path, tmp_path: Path, verb: str, override: str, parts: tuple[str, ...]
) -> None:
    first = tmp_path / "slides.csv" if verb == "tile" else tiny_cohort
    assert_refused(hnm(verb, first, tmp_path / "out", override), 2, "error: ", *parts)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_preset_is_misuse(tiny_cohort: Path, tmp_path: Path) -> None:
    result = hnm("train", tiny_cohort, tmp_path / "run", "--preset", "its2cl", *TINY)
    assert_refused(result, 2, "--preset its2cl", "Did you mean 'its2clr'?", "hnm-paper")
    assert not (tmp_path / "run").exists()


def refused_training(cohort: Path, run: Path, *arguments: str | Path, parts: tuple[str, ...]) -> None:
    """Assert that training is refused with these parts of a message and makes no run directory."""
    assert_refused(hnm("train", cohort, run, "--ranks", "1", *TINY, *arguments), 1, "error: ", *parts)
    assert not run.exists()


def test_batches_that_cannot_be_filled_leave_no_folder(tiny_cohort: Path, tmp_path: Path) -> None:
    parts: tuple[str, ...] = ("pretrain.batch_size is 200, but there are only 96 training patches", "at most 96")
    refused_training(tiny_cohort, tmp_path / "run", "pretrain.batch_size=200", parts=parts)
    result = hnm("pretrain", tiny_cohort, tmp_path / "out", "--ranks", "1", *TINY, "pretrain.batch_size=200")
    assert_refused(result, 1, *parts)
    assert not (tmp_path / "out").exists()
    parts = ("finetune.batch_size is 30, but there are only 24 hard negatives", "mining.neg_ratio 0.5", "at most 24")
    refused_training(tiny_cohort, tmp_path / "run", "finetune.batch_size=30", parts=parts)


def test_encoders_that_are_missing_or_do_not_fit_leave_no_folder(tiny_cohort: Path, tmp_path: Path) -> None:
    gone, wide = tmp_path / "gone.safetensors", tmp_path / "wide.safetensors"
    parts: tuple[str, ...] = (f"--encoder {gone}: there is no such file", "hnm pretrain")
    refused_training(tiny_cohort, tmp_path / "run", "--encoder", gone, parts=parts)
    save_model(wide, fresh_model(tiny_config("encoder.width=0.25").encoder, 0), {})
    parts = (str(wide), "conv1.weight (16, 3, 3, 3) instead of (8, 3, 3, 3)", "Set encoder.*")
    refused_training(tiny_cohort, tmp_path / "run", "--encoder", wide, parts=parts)


def test_a_cohort_of_another_format_is_refused(tiny_cohort: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    shutil.copytree(tiny_cohort, cohort)
    info = json.loads((cohort / "cohort.json").read_text())
    (cohort / "cohort.json").write_text(json.dumps({**info, "format_version": 99}))
    refused_training(cohort, tmp_path / "run", parts=(f"{cohort / 'cohort.json'}: format_version is 99", "hnm tile"))


def test_a_split_without_positive_slides_is_refused(tiny_cohort: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    shutil.copytree(tiny_cohort, cohort)
    table = pq.read_table(cohort / "slides.parquet")
    is_test = pc.equal(table["split"], "test")
    labels = pc.if_else(is_test, table["label"], pa.scalar(0, table.schema.field("label").type))
    table = table.set_column(table.column_names.index("label"), "label", labels)
    pq.write_table(table, cohort / "slides.parquet")
    parts = ("slides.parquet", "the train split has no positive slide", "data.split_column")
    refused_training(cohort, tmp_path / "run", parts=parts)


def test_a_run_of_another_cohort_other_settings_or_encoder_is_refused_and_left_alone(
    finished_run: Path, tiny_cohort: Path, slides: Callable[..., Path], tmp_path: Path
) -> None:
    run, other, encoder = tmp_path / "run", tmp_path / "other", tmp_path / "other.safetensors"
    shutil.copytree(finished_run, run)
    before = results_of(run)
    assert hnm("tile", slides(lambda rows: rows.pop()), other, *TILE).exit_code == 0
    train: list[str | Path] = ["train", tiny_cohort, run, "--preset", "hnm", "--ranks", "1", *TINY]
    parts = (str(run / "state.json"), "was made with the cohort", str(tiny_cohort), str(other), "another run directory")
    assert_refused(hnm("train", other, *train[2:]), 1, *parts)
    assert_refused(hnm("evaluate", run, "--cohort", other, "--ranks", "1"), 1, *parts)
    assert_refused(hnm(*train, "finetune.lr=0.5"), 1, str(run), "finetune.lr: 0.01 -> 0.5", "another run directory")
    save_model(encoder, fresh_model(tiny_config().encoder, 77), {})
    assert_refused(hnm(*train, "--encoder", encoder), 1, f"--encoder {encoder}", "started from another encoder")
    assert results_of(run) == before
    assert not (run / "metrics.json").exists()
    assert hnm(*train, "reader.threads=1").exit_code == 0  # how it is read may change, and so may the machine
    assert hnm(*train, "--encoder", run / "encoder-start.safetensors").exit_code == 0
    assert results_of(run) == before


def test_a_folder_of_something_else_is_not_touched(tiny_cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("...")
    result = hnm("train", tiny_cohort, tmp_path / "thesis", "--ranks", "1", *TINY)
    assert_refused(result, 1, str(tmp_path / "thesis"), "no run directory", "another name")
    assert_refused(hnm("evaluate", tmp_path / "thesis"), 1, "state.json is missing", "hnm train")
    assert_refused(hnm("demo", tmp_path / "thesis"), 1, "is no demo folder", "hnm demo FOLDER")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_evaluating_too_early_is_refused(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / "round-002" / "mining.json").unlink()
    result = hnm("evaluate", run, "--ranks", "1")
    assert_refused(result, 1, f"{run}: training is not finished", "Run the same hnm train again")
    assert not (run / "metrics.json").exists()


def test_a_second_evaluation_shows_the_first_and_reads_nothing(
    finished_run: Path, tiny_cohort: Path, tmp_path: Path
) -> None:
    run, cohort = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(finished_run, run)
    shutil.copytree(tiny_cohort, cohort)
    first = hnm("evaluate", run, "--cohort", cohort, "--ranks", "1", "--no-report")
    assert first.exit_code == 0
    assert f"wrote {run / 'metrics.json'}" in first.stdout
    before = results_of(run)
    shutil.rmtree(cohort)
    second = hnm("evaluate", run, "--cohort", cohort, "--ranks", "1", "--no-report")
    assert second.exit_code == 0
    assert "the test split has been read" in second.stdout
    figures = first.stdout.split("wrote")[0]
    assert figures in second.stdout
    assert results_of(run) == before


def test_an_unreadable_patch_is_named(tiny_cohort: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    shutil.copytree(tiny_cohort, cohort)
    (cohort / "shards" / "slide-005-0000.tar").write_bytes(b"")
    result = hnm("pretrain", cohort, tmp_path / "out", "--ranks", "1", *TINY)
    assert_refused(result, 1, "error: ", "slide-005-0000.tar")
    assert not (tmp_path / "out" / "encoder.safetensors").exists()
