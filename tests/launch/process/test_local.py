"""Ranks of one machine, started by `hnm --ranks 2` itself: equal results, exit codes, and a kill in the middle."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hnm.engine.state import load_weights
from launch.process.status import read_status
from tests.tiny import TINY, results_of
from tests.waiting import wait_for

TIMEOUT_S = 120


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-P", "-m", "launch.cli", *map(str, arguments)]


def hnm(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def test_both_ranks_log_and_one_writes(run_on_2_ranks: Path, finished_run: Path) -> None:
    names = {path.name for path in (run_on_2_ranks / "log").iterdir()}
    assert names == {f"{name}-00{rank}.{kind}" for name, kind in (("rank", "log"), ("heartbeat", "json")) for rank in (0, 1)}
    assert results_of(run_on_2_ranks).keys() == results_of(finished_run).keys()  # the same files as on one rank
    two, one = (load_weights(run / "encoder-start.safetensors")[0] for run in (run_on_2_ranks, finished_run))
    differences = torch.cat([(two[name] - tensor).abs().flatten() for name, tensor in one.items()])
    assert float(differences.mean()) < 1e-4  # 4 steps of Adam, up to 1e-3 each; where a gradient is nearly 0, rounding decides


def start(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = subprocess.PIPE, subprocess.STDOUT
    return subprocess.Popen(command(*arguments), cwd=cwd, env=environment, stdout=both[0], stderr=both[1], text=True)


@pytest.mark.slow
def test_stopped_then_killed_then_finished_is_undisturbed(
    run_on_2_ranks: Path, tiny_cohort: Path, tmp_path: Path
) -> None:
    train: list[str | Path] = ["train", tiny_cohort, "run", "--preset", "hnm", "--ranks", "2", *TINY]
    run = tmp_path / "run"
    process = start(*train, cwd=tmp_path)
    wait_for(run / "round-000" / "aggregator.safetensors", process)
    process.send_signal(signal.SIGTERM)  # passed on to the ranks, which agree, save and leave
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 75, output
    assert "stopping when the step is done and saved" in output
    assert output.count("the same command goes on there") == 1  # rank 0 speaks for both
    assert "Traceback" not in output
    assert not (run / "round-002" / "mining.json").exists()
    process = start(*train, cwd=tmp_path)
    wait_for(run / "round-001" / "mining.json", process)
    ranks = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    os.kill(ranks[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + signal.SIGKILL, output
    assert "rank 1 was killed by SIGKILL (out of memory?)" in output
    if "error: another rank is gone" in output:  # rank 0 has noticed before it was ended
        assert "Last reports: rank 0: " in output
        assert "; rank 1: " in output
    assert "Traceback" not in output
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    killed = read_status(run, time.time())  # by the launcher: rank 0 knows only that it was lost, or was ended before that
    assert (killed.word, killed.attempts[-1]["how"]) == ("failed", "failed (rank 1 was killed by SIGKILL)")
    done = hnm(*train, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert results_of(run) == results_of(run_on_2_ranks)
    status = read_status(run, time.time())
    assert status.word == "finished"
    assert [attempt["how"] for attempt in status.attempts][::2] == ["stopped as asked", "finished"]
    assert [attempt["ranks"] for attempt in status.attempts] == [2, 2, 2]
    assert {(beat["rank"], beat["phase"]) for beat in status.beats} == {(0, "mine"), (1, "mine")}


@pytest.mark.slow
def test_none_outlives_the_launcher(tiny_cohort: Path, tmp_path: Path) -> None:
    process = start("pretrain", tiny_cohort, "out", "--ranks", "2", *TINY, "pretrain.epochs=1000", cwd=tmp_path)
    wait_for(tmp_path / "out" / "log" / "rank-001.log", process)
    ranks = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(ranks) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in ranks) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_both_ranks_with_1(tiny_cohort: Path, tmp_path: Path) -> None:
    done = hnm("pretrain", tiny_cohort, "out", "--ranks", "2", *TINY, "pretrain.lr=1e30", cwd=tmp_path)
    assert done.returncode == 1
    assert "loss is nan at pretrain epoch 0, step 1 (loss) (rank 0: loss nan, ids [" in done.stderr
    assert [line[:7] for line in done.stderr.splitlines()] == ["error: "]  # rank 1 would say the same
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "encoder.safetensors").exists()
