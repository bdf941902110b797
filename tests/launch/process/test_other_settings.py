"""A run that goes on with other settings: those that cannot change results are free and on record, the others are refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hnm.config import read_config
from hnm.engine.state import load_weights
from hnm.run_rounds import START_ENCODER
from launch.process.run_directory import attempt_tags
from shards.files import write_json
from tests.command_line import assert_refused, hnm
from tests.launch.process.test_local import TIMEOUT_S
from tests.paths import ROOT
from tests.tiny import TINY

LONGER = [*TINY, "finetune.epochs_per_round=3", "finetune.warmup_epochs=3", "rounds.num_rounds=1"]
SMALLER = ["finetune.chunk_size=4", "pretrain.chunk_size=8", "rounds.embed_batch_size=7", "rounds.keep_features=true"]


def start(cohort: Path, run: Path, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "launch.cli", "train", str(cohort), str(run), "--ranks", "1", *LONGER, *more],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(cohort: Path, run: Path, *more: str) -> str:
    process = start(cohort, run, *more)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output[-3000:]
    return output


def stop_in_finetuning(cohort: Path, run: Path, *more: str) -> str:
    """Train until a checkpoint of the first fine-tuning is new, and stop; return the output."""
    checkpoints = run / "round-000" / "encoder"
    known = set(checkpoints.glob("step-*"))
    process = start(cohort, run, "checkpoint.every_steps=1", *more)
    deadline = time.monotonic() + TIMEOUT_S
    while not set(checkpoints.glob("step-*")) - known:
        assert process.poll() is None, (process.communicate()[0] or "")[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR2)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 75, output[-3000:]
    assert list(checkpoints.glob("step-*"))
    return output


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_cohort: Path) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(tiny_cohort, run)
    return run


def farthest(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    return max(float((some[name] - others[name]).abs().max()) for name in others)


def state_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "state.json").read_text()))


@pytest.mark.slow
def test_smaller_pieces_in_the_middle_of_a_phase_give_the_same_run(
    undisturbed: Path, tiny_cohort: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    stop_in_finetuning(tiny_cohort, run)
    output = finish(tiny_cohort, run, *SMALLER)
    assert "finetune goes on after step" in output  # the checkpoint of the larger pieces was taken
    assert "other settings than before, noted in state.json: " in output
    changed = state_of(run)["attempts"][1]["changed"]
    assert {"finetune.chunk_size: 0 -> 4", "rounds.embed_batch_size: 16 -> 7"} <= set(changed)
    assert "rounds.keep_features: False -> True" in changed
    assert "finetune.chunk_size: 0 -> 4" in attempt_tags(run)["hnm.attempt.002"]
    assert "changed" not in state_of(run)["attempts"][0]
    assert read_config(run / "config.yaml").finetune.chunk_size == 4  # evaluate takes what fits into memory
    # Sums of other pieces are rounded otherwise: 1e-7 after two steps, and each step makes more of it (2e-3 after 16).
    begin, ours, theirs = (
        load_weights(path)[0]
        for path in (
            undisturbed / "encoder-start.safetensors",
            *(folder / "round-000" / "encoder.safetensors" for folder in (run, undisturbed)),
        )
    )  # fmt: skip
    assert farthest(ours, theirs) < 0.01 * farthest(begin, theirs)
    scores = [np.load(folder / "round-001" / "scores.npy") for folder in (run, undisturbed)]
    np.testing.assert_allclose(*scores, atol=0.05)

    train = ("train", tiny_cohort, run, "--ranks", "1", *LONGER, *SMALLER)  # from here on all is there: in this process
    told = " ".join(hnm(*train, "engine.precision=bf16").output.split())
    assert "warning: engine.precision: fp32 -> bf16: what is computed from here on is rounded otherwise" in told
    assert "engine.precision: fp32 -> bf16" in state_of(run)["attempts"][2]["changed"]
    assert "settings" in state_of(run)

    refused = hnm(*train, "mining.neg_ratio=0.4")
    assert_refused(refused, 1, "mining.neg_ratio: 0.5 -> 0.4", f"--config {run / 'config.yaml'}")
    assert len(state_of(run)["attempts"]) == 3


@pytest.mark.slow
def test_a_checkpoint_of_zero_goes_on_without_it_and_the_other_way_round(
    undisturbed: Path, tiny_cohort: Path, tmp_path: Path
) -> None:
    run, zero = tmp_path / "run", "engine.deepspeed=zero2"
    settings = ["finetune.epochs_per_round=20", "finetune.warmup_epochs=20", "--encoder", str(undisturbed / START_ENCODER)]
    assert "goes on after" not in stop_in_finetuning(tiny_cohort, run, *settings, zero)
    assert "finetune goes on after step" in stop_in_finetuning(tiny_cohort, run, *settings)
    assert "finetune goes on after step" in stop_in_finetuning(tiny_cohort, run, *settings, zero)
    assert [attempt["how"] for attempt in state_of(run)["attempts"]] == ["stopped as asked"] * 3
    assert not list(run.rglob("refused-*"))


def test_a_run_of_before_goes_on_with_the_configuration_that_it_recorded(
    undisturbed: Path, tiny_cohort: Path, tmp_path: Path
) -> None:
    """It recorded every stage of slurm, background none, and was started when no preset was the default."""
    import shutil

    import yaml

    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    recorded = yaml.safe_load((run / "config.yaml").read_text())
    empty = {"account": None, "nodes": None, "time": None, "extra": {}, "setup": []}
    recorded["slurm"]["stages"] = dict.fromkeys(("tile", "merge", "pretrain", "train", "evaluate", "predict"), empty)
    recorded["tile"]["background"] = ["none"]
    recorded["mining"]["hard_share"] = 1.0
    (run / "config.yaml").write_text(yaml.safe_dump(recorded))
    write_json(run / "state.json", state_of(run))
    train = ("train", tiny_cohort, run, "--ranks", "1")
    assert_refused(hnm(*train, *LONGER), 1, "started with other settings (mining.hard_share: 1.0 -> 0.3333). ")
    done = hnm(*train, "--config", run / "config.yaml")
    assert done.exit_code == 0, done.output
    assert "changed" not in state_of(run)["attempts"][-1]
