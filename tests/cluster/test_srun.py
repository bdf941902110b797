"""`srun hnm train` on a real SLURM: the tasks of a step are the ranks of one run, whether or not each sees only its own GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hnm.run.phase import read_state
from tests.cluster.lab import ROOT
from tests.tiny import TINY

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("binding", [[], ["--gpus-per-task=1", "--gpu-bind=single:1"]])
def test_four_tasks_on_two_nodes_are_one_run(binding: list[str], tiny_cohort: Path, tmp_path: Path) -> None:
    command = ["srun", "-N", "2", "-n", "4", "--ntasks-per-node=2", *binding, sys.executable, "-P", "-m", "launch.cli"]
    train = ["train", tiny_cohort, tmp_path / "run", "--preset", "hnm", *TINY, "rounds.num_rounds=0"]
    done = subprocess.run(
        [*command, *map(str, train)], env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("done. Next: hnm evaluate") == 1
    (attempt,) = read_state(tmp_path / "run")["attempts"]
    assert (attempt["ranks"], attempt["how"]) == (4, "finished")
    assert len(list((tmp_path / "run" / "log").glob("heartbeat-*.json"))) == 4
