"""`hnm doctor` on a real SLURM: which rank each task is, and what the ranks of a job of two nodes measure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cluster.submissions import read_jobs
from tests.cluster.lab import ROOT, hnm, until_state

pytestmark = pytest.mark.slow


def srun(num_tasks: int, *arguments: str | Path) -> str:
    """Run `hnm doctor` in 2 or 4 tasks on two nodes and return what they print."""
    share = ["-n", str(num_tasks), f"--ntasks-per-node={num_tasks // 2}"]
    command = ["srun", "-N", "2", *share, "--label", sys.executable, "-P", "-m", "launch.cli", "doctor"]
    done = subprocess.run(
        [*command, *map(str, arguments)], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_task_of_srun_says_which_rank_it_is() -> None:
    told = srun(2)
    for rank in range(2):
        assert f"{rank}: ranks       this is rank {rank} of 2" in told


def test_four_ranks_of_two_nodes_measure_each_other(tmp_path: Path) -> None:
    lines = [line.split(": ", 1)[1] for line in srun(4, "--cluster", "--folder", tmp_path, "device=cpu").splitlines()]
    places = [tuple(line.split(",")[0].split()[1:5]) for line in lines if line.startswith("rank ")]
    assert places == [(str(rank), "of", "4", f"node{1 + rank // 2}") for rank in range(4)]
    assert any(line.startswith("gloo ") for line in lines)
    assert not any(line.startswith("to mend") for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_a_submitted_doctor_says_the_same_in_its_log(tmp_path: Path) -> None:
    asked = ["submit", "doctor", "--folder", tmp_path, "--nodes", "2", "--gpus-per-node", "2", "device=cpu"]
    shown = hnm(*asked, "--partition", "high", "--dry-run")  # not submitted there: it would evict the jobs of other tests
    assert shown.exit_code == 0, shown.output
    assert "(slurm.cpus is not set: nodes of high have 4 cores for each GPU)" in " ".join(shown.output.split())
    assert "#SBATCH --cpus-per-task=4" in shown.output
    assert hnm(*asked).exit_code == 0
    (job,) = read_jobs(tmp_path)
    until_state(job.job_id, "COMPLETED")
    assert "rank 3 of 4  node2, cpu" in hnm("logs", tmp_path).output
