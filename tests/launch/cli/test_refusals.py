"""Runs and cohorts that do not fit are refused before anything is written, with what can be done about it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hnm.config import load_config
from hnm.encoder.contrastive_model import fresh_model, save_model
from hnm.engine.ranks import single_world
from hnm.rounds import check_batches
from hnm.run.study import open_study
from shards.cohort.cohort import Cohort
from tests.command_line import assert_refused, hnm
from tests.tiny import TILE, TINY, results_of, tiny_config


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
    parts = ("only 1 hard negatives", "too few for any batch", "Raise mining.neg_ratio, here to at least 0.334, ")  # 16 of 48
    refused_training(tiny_cohort, tmp_path / "run", "mining.neg_ratio=1e-6", parts=parts)
    advised = load_config(None, "hnm", [*TINY, "mining.neg_ratio=0.334"])
    check_batches(advised, open_study(Cohort.open(tiny_cohort), advised.data, 0), single_world())


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
