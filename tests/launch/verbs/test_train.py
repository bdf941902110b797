"""What the verbs write and say; mistakes are in tests/launch/cli, several ranks in tests/launch/process."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from hnm.engine.state import load_weights
from hnm.run.phase import read_state
from launch.verbs import train as verbs
from tests.tiny import TINY, results_of


def test_pretrain_then_train_is_what_train_does_alone(
    tiny_cohort: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, run = tmp_path / "pretrained", tmp_path / "run"
    assert verbs.pretrain(tiny_cohort, out, None, TINY, ranks=1) == 0
    encoder = out / "encoder.safetensors"
    assert f"wrote {encoder}. Next: hnm train {tiny_cohort} run/ --encoder {encoder}" in capsys.readouterr().out
    before = encoder.read_bytes()
    assert verbs.pretrain(tiny_cohort, out, None, TINY, ranks=1) == 0
    assert "is there already; remove it to pretrain again" in capsys.readouterr().out
    assert encoder.read_bytes() == before
    assert verbs.train(tiny_cohort, run, encoder, None, "hnm", TINY, ranks=1) == 0
    ours, alone = results_of(run), results_of(finished_run)
    metadata = load_weights(run / "encoder-start.safetensors")[1]
    assert metadata["source"] == "encoder.safetensors"
    assert metadata["source_sha256"] == sha256(before).hexdigest()
    del ours["encoder-start.safetensors"], alone["encoder-start.safetensors"]  # the same tensors, other metadata
    assert ours == alone


def test_train_writes_the_files_of_the_design(finished_run: Path) -> None:
    decided = {
        "scores.npy",
        "slide_scores.npy",
        "pseudo_labels.npy",
        "weights.npy",
        "negatives.npy",
        "candidates.npy",
        "candidate_scores.npy",
    }
    decided |= {"aggregator.safetensors", "mining.json"}
    files = {
        "config.yaml",
        "environment.json",
        "slides.parquet",
        "state.json",
        "events.jsonl",
        "log/rank-000.log",
        "log/heartbeat-000.json",
        "encoder-start.safetensors",
        "round-000/baselines.npz",
    }
    for round_ in range(3):
        names = decided | ({"encoder.safetensors"} if round_ < 2 else set())
        files |= {f"round-{round_:03d}/{name}" for name in names}
    assert {str(path.relative_to(finished_run)) for path in finished_run.rglob("*") if path.is_file()} == files
    events = [json.loads(line) for line in (finished_run / "events.jsonl").read_text().splitlines()]
    phases = {event["phase"] for event in events if event["event"] == "metrics"}
    assert phases == {"pretrain", "aggregate", "round", "finetune"}
    steps = {record["round"]: record["steps"] for record in read_state(finished_run)["phases"] if "steps" in record}
    assert steps == {
        0: 2,
        1: 4,
    }  # 24 negatives, 13 in a batch; from the warm-up epoch on each step is followed by another


def test_evaluate_finds_the_cohort_that_the_run_names(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    assert verbs.evaluate(run, None, ranks=1, with_report=False) == 0
    out = capsys.readouterr().out
    assert "test split, 2 slides" in " ".join(out.split())
    assert {"metrics.json", "predictions.parquet", "patch_scores.npy"} <= {path.name for path in run.iterdir()}


@pytest.mark.parametrize("preset", ["dsmil", "its2clr", "hnm-paper", "hnm-slide"])
def test_every_preset_trains(tiny_cohort: Path, tmp_path: Path, preset: str) -> None:
    overrides = [text for text in TINY if not text.startswith(("mining.", "rounds.num"))]
    overrides += ["finetune.batch_size=8"] + (["rounds.num_rounds=1"] if preset != "dsmil" else [])
    assert verbs.train(tiny_cohort, tmp_path / "run", None, None, preset, overrides, ranks=1) == 0
    rounds = sorted(path.name for path in (tmp_path / "run").glob("round-*"))
    assert rounds == (["round-000"] if preset == "dsmil" else ["round-000", "round-001"])
    mined = json.loads((tmp_path / "run" / "round-000" / "mining.json").read_text())
    if preset == "hnm-slide":
        assert "joint_loss" in (tmp_path / "run" / "events.jsonl").read_text()
    if preset == "its2clr":
        assert mined["num_hard_negatives"] == 48  # all patches of negative training slides
    if preset == "hnm-paper":
        assert mined["num_hard_negatives"] >= 13  # a fifth of 64, with validation slides; ties are kept


def test_a_report_that_a_killed_evaluation_has_left_out_is_made_by_the_next(
    evaluated_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated_run, run)
    (run / "report.html").unlink()
    (run / "model" / "model.json").unlink()
    before = {name: (run / name).stat().st_mtime_ns for name in ("metrics.json", "predictions.parquet", "patch_scores.npy")}
    assert verbs.evaluate(run, None, ranks=1) == 0
    assert "the test split has been read. These are its figures" in capsys.readouterr().out
    assert (run / "report.html").is_file()
    models = [json.loads((folder / "model" / "model.json").read_text()) for folder in (run, evaluated_run)]
    assert models[0]["weights"] == models[1]["weights"]
    assert {name: (run / name).stat().st_mtime_ns for name in before} == before  # nothing is measured again
    page = (run / "report.html").stat().st_mtime_ns
    assert verbs.evaluate(run, None, ranks=1) == 0
    assert (run / "report.html").stat().st_mtime_ns == page
