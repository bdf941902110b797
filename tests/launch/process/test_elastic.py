"""A launcher that is not ours: torchrun's restart after a death. submitit's requeue is in tests/cluster/test_pipeline.py."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.launch.process.test_local import TIMEOUT_S, hnm
from tests.paths import ROOT
from tests.tiny import TINY, results_of

pytestmark = pytest.mark.slow
LONGER = [*TINY, "aggregate.epochs=40", "checkpoint.every_steps=20"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_cohort: Path) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = hnm("train", tiny_cohort, "run", "--preset", "hnm", "--ranks", "2", *LONGER, cwd=folder)
    assert done.returncode == 0, done.stderr
    return results_of(folder / "run")


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


def test_torchrun_starts_again_after_a_killed_rank(
    undisturbed: dict[str, bytes], tiny_cohort: Path, tmp_path: Path
) -> None:
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2",
                "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--monitor-interval", "0.1"]  # fmt: skip
    command = [*torchrun, "-m", "launch.cli", "train", str(tiny_cohort), str(tmp_path / "run"), "--preset", "hnm", *LONGER]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(tmp_path / "run" / "round-001" / "scores.npy", lambda: process.poll() is not None)
    os.kill(ranks_of(tmp_path / "run")[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output[-3000:]
    assert results_of(tmp_path / "run") == undisturbed
