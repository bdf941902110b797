"""Ranks of one machine, started by `hnm --ranks 2` itself: equal results, exit codes, and a kill in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hnm.weights import load_weights
from tests.tiny import TINY, results_of

TIMEOUT_S = 120


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-P", "-m", "launch.cli", *map(str, arguments)]


def hnm(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


@pytest.fixture(scope="module")
def run_on_2_ranks(tmp_path_factory: pytest.TempPathFactory, tiny_cohort: Path) -> Path:
    """A run of two rounds by `hnm train --ranks 2`."""
    folder = tmp_path_factory.mktemp("two-ranks")
    done = hnm("train", tiny_cohort, "run", "--preset", "hnm", "--ranks", "2", *TINY, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done. Next: hnm evaluate run") == 1  # rank 0 speaks for both
    return folder / "run"


def test_the_same_seed_and_ranks_give_the_same_bits(run_on_2_ranks: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    done = hnm("train", tiny_cohort, "run", "--preset", "hnm", "--ranks", "2", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ours = results_of(tmp_path / "run")
    assert {"round-001/encoder.safetensors", "round-002/aggregator.safetensors"} <= ours.keys()
    assert ours == results_of(run_on_2_ranks)


def test_counting_over_ranks_mines_what_gathering_does(run_on_2_ranks: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    settings = [*TINY, "mining.selection=histogram"]
    done = hnm("train", tiny_cohort, "run", "--preset", "hnm", "--ranks", "2", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    counted, gathered = results_of(tmp_path / "run"), results_of(run_on_2_ranks)
    assert counted.keys() == gathered.keys()
    # The later rounds train on what the first one mined: all bytes are equal, down to the last aggregator.
    assert [name for name in counted if counted[name] != gathered[name]] == ["config.yaml"]
    assert json.loads(counted["round-000/mining.json"])["num_hard_negatives"] > 0


def test_both_ranks_log_and_one_writes(run_on_2_ranks: Path, finished_run: Path) -> None:
    assert {path.name for path in (run_on_2_ranks / "log").iterdir()} == {"rank-000.log", "rank-001.log"}
    assert results_of(run_on_2_ranks).keys() == results_of(finished_run).keys()  # the same files as on one rank
    two, one = (load_weights(run / "encoder-start.safetensors")[0] for run in (run_on_2_ranks, finished_run))
    assert (
        max(float((two[name] - tensor).abs().max()) for name, tensor in one.items()) < 3e-4
    )  # 4 steps of Adam, float32


def test_a_killed_run_goes_on_to_the_same_bits(run_on_2_ranks: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    train: list[str | Path] = ["train", tiny_cohort, "run", "--preset", "hnm", "--ranks", "2", *TINY]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = subprocess.PIPE, subprocess.STDOUT
    process = subprocess.Popen(command(*train), cwd=tmp_path, env=environment, stdout=both[0], stderr=both[1])
    deadline = time.monotonic() + TIMEOUT_S
    while not (tmp_path / "run" / "round-000" / "mining.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)  # the launcher ends its ranks
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert b"stopped; the same command goes on where it was" in output
    assert b"Traceback" not in output
    assert not (tmp_path / "run" / "round-002" / "mining.json").exists()
    done = hnm(*train, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert results_of(tmp_path / "run") == results_of(run_on_2_ranks)


def test_a_loss_that_is_not_finite_ends_both_ranks_with_1(tiny_cohort: Path, tmp_path: Path) -> None:
    done = hnm("pretrain", tiny_cohort, "out", "--ranks", "2", *TINY, "pretrain.lr=1e30", cwd=tmp_path)
    assert done.returncode == 1
    assert "error: loss is nan at pretraining step 2 (rank 0: nan); lower the learning rate" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "encoder.safetensors").exists()
