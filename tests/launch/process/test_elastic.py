"""A launcher that is not ours: torchrun's restart after a death. submitit's requeue is in tests/cluster/test_pipeline.py."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.launch.process.test_local import TIMEOUT_S
from tests.paths import ROOT
from tests.tiny import TINY, results_of

pytestmark = pytest.mark.slow


def wait_until(path: Path, is_over: Any) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not path.exists():
        assert not is_over()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ranks_of(run: Path) -> dict[int, int]:
    """Return {rank: pid} of the run's last heartbeats."""
    from hnm.run.heartbeat import read_beats

    return {beat["rank"]: beat["pid"] for beat in read_beats(run / "log")}


def test_torchrun_starts_again_after_a_killed_rank(run_on_2_ranks: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2",
                "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--monitor-interval", "0.1"]  # fmt: skip
    command = [*torchrun, "-m", "launch.cli", "train", str(tiny_cohort), str(tmp_path / "run"), "--preset", "hnm", *TINY]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(tmp_path / "run" / "round-000" / "scores.npy", lambda: process.poll() is not None)
    os.kill(ranks_of(tmp_path / "run")[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output[-3000:]
    assert results_of(tmp_path / "run") == results_of(run_on_2_ranks)
