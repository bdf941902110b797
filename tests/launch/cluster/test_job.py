"""What a job tells torch.distributed, from the variables that SLURM really sets; the rest is in tests/cluster."""

import os
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
from submitit.local.local import LocalJobEnvironment
from submitit.slurm.slurm import SlurmJobEnvironment

from launch.cli.submit import APP
from launch.cluster.job import Job, rank_variables, stop_handler
from launch.cluster.submissions import cancel_mark

STEP = {
    "SLURM_JOB_ID": "4711", "SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "2", "SLURM_NODEID": "1", "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1", "SLURM_JOB_NODELIST": "gpu-[07,09]",
}  # fmt: skip


def variables(monkeypatch: pytest.MonkeyPatch, **more: str) -> dict[str, str]:
    for name, value in (STEP | more).items():
        monkeypatch.setenv(name, value)
    return rank_variables(SlurmJobEnvironment(), os.environ)


def test_ranks_meet_on_the_first_node(monkeypatch: pytest.MonkeyPatch) -> None:
    found = variables(monkeypatch)
    port = int(found.pop("MASTER_PORT"))
    assert found == {
        "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "gpu-07",
    }  # fmt: skip
    assert 20000 <= port < 32768  # where Linux hands out no ports by itself
    assert int(variables(monkeypatch, SLURM_JOB_ID="4712")["MASTER_PORT"]) != port
    assert int(variables(monkeypatch, SLURM_RESTART_COUNT="1")["MASTER_PORT"]) != port
    assert variables(monkeypatch, MASTER_PORT="1234")["MASTER_PORT"] == "1234"
    assert variables(monkeypatch, SLURM_JOB_NUM_NODES="1")["MASTER_ADDR"] == "127.0.0.1"


def test_the_pickle_is_the_command_line() -> None:
    words = ["train", "cohort", "run", "--config", "run/slurm/config.yaml"]
    data = pickle.dumps(Job(APP, words))
    assert len(data) < 200
    assert vars(pickle.loads(data)) == {"app": APP, "arguments": words}
    assert Job(APP, words).checkpoint().function.arguments == words


@pytest.mark.parametrize(
    ("rank", "cancelled", "requeued"), [("0", False, True), ("1", False, False), ("0", True, False)]
)
def test_rank_0_requeues_unless_the_job_is_cancelled(
    rank: str, cancelled: bool, requeued: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"JOB_ID": "17", "GLOBALID": rank, "NTASKS": "2"}.items():
        monkeypatch.setenv(f"SUBMITIT_LOCAL_{name}", value)
    monkeypatch.setenv("SUBMITIT_FOLDER", str(tmp_path))
    if cancelled:
        cancel_mark(tmp_path, "17").touch()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # the handler may end its process

        def requeue(number: int, frame: Any) -> None:
            os.write(writing, b"requeued")

        stop_handler(LocalJobEnvironment(), requeue)(signal.SIGTERM, None)
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    assert (os.read(reading, 100) == b"requeued") == requeued
    os.close(reading)
    # without SLURM nobody else would end rank 1, which waits for rank 0
    assert os.waitstatus_to_exitcode(status) == (143 if cancelled or rank == "1" else 0)
