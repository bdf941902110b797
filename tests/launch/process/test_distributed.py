"""Which rank this process is, whoever started it; what is not whole is one line with the variable and the remedy."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launch.process.distributed import meeting_port, require_ranks, variables_of_launcher
from shards.errors import InputError
from tests.paths import ROOT
from tests.tiny import TINY

STEP = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu-[07,09]", "MASTER_ADDR": "gpu-07", "SLURM_CPUS_ON_NODE": "1",
}  # fmt: skip
MEET = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_a_task_of_srun_is_a_rank() -> None:
    found = variables_of_launcher(STEP)
    assert found.pop("MASTER_PORT") == str(meeting_port("47110", 0))
    assert found.pop("OMP_NUM_THREADS") == "1"  # the step's one core
    assert found == {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu-07"}
    two = {**STEP, "SLURM_CPUS_ON_NODE": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2),2"}  # the fullest node's share
    assert variables_of_launcher(two)["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in variables_of_launcher({**STEP, "OMP_NUM_THREADS": "5"})
    assert variables_of_launcher({**STEP, "SLURM_RESTART_COUNT": "1"})["MASTER_PORT"] != str(meeting_port("47110", 0))


@pytest.mark.parametrize("changed", [{"SLURM_STEP_NUM_TASKS": "1"}, {"RANK": "0"}])
def test_one_task_is_alone_and_ranks_stay_what_they_are(changed: dict[str, str]) -> None:
    assert variables_of_launcher({**STEP, **changed}) == {}


def test_a_batch_script_of_a_job_of_four_tasks_is_alone() -> None:
    assert variables_of_launcher({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}) == {}


def test_a_process_of_mpirun_is_a_rank() -> None:
    ours = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
    found = variables_of_launcher({**ours, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"})
    assert found.pop("MASTER_PORT").isdecimal()
    assert int(found.pop("OMP_NUM_THREADS")) <= max(1, (os.cpu_count() or 1) // 2)
    assert found == {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}
    assert variables_of_launcher({"PMI_RANK": "1", "PMI_SIZE": "2"})["RANK"] == "1"
    with pytest.raises(InputError, match="MASTER_ADDR is not set"):
        require_ranks({**ours, **variables_of_launcher(ours)})


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0", **MEET}, r"^WORLD_SIZE='' .* is no number.*unset RANK"),
        ({"RANK": "abc", "WORLD_SIZE": "2", **MEET}, r"^RANK='abc'"),
        ({"RANK": "5", "WORLD_SIZE": "2", **MEET}, r"^RANK=5, but WORLD_SIZE=2"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "x", **MEET}, r"^LOCAL_RANK='x'"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1"}, r"^MASTER_ADDR is not set"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, r"^MASTER_PORT is not set"),
        ({"RANK": "0", "WORLD_SIZE": "2", **MEET, "MASTER_PORT": "x"}, r"^MASTER_PORT='x'"),
        ({"RANK": "0", "WORLD_SIZE": "2", **MEET, "MASTER_ADDR": "no.such.host.invalid"}, r"^MASTER_ADDR=no.such.host.invalid"),
    ],
)  # fmt: skip
def test_what_is_not_whole_names_the_variable(environment: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        require_ranks(environment)


def test_whole_variables_pass() -> None:
    require_ranks({})
    require_ranks({"RANK": "0", "WORLD_SIZE": "2", "HNM_RENDEZVOUS": "file:///x"})
    require_ranks({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", **MEET})


def pretrain(cohort: Path, folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-P", "-m", "launch.cli", "pretrain", str(cohort), str(folder), *options, *TINY]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(words, env=variables, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_says_it_in_one_line(tiny_cohort: Path, tmp_path: Path) -> None:
    done = pretrain(tiny_cohort, tmp_path / "a", RANK="5", WORLD_SIZE="2", **MEET)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: RANK=5, but WORLD_SIZE=2")
    done = pretrain(tiny_cohort, tmp_path / "a", "--ranks", "3", RANK="0", WORLD_SIZE="2", **MEET)
    assert (done.returncode, "--ranks 3: a launcher has started 2 ranks already" in done.stderr) == (2, True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = pretrain(tiny_cohort, tmp_path / "a", RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    assert done.returncode == 1, done.stderr
    assert f"error: the ranks do not meet at MASTER_ADDR:MASTER_PORT = 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr
