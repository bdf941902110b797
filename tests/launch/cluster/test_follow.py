"""What logs tell: the rank that died first, not the ranks that noticed. The lines are srun's and ours, as they were seen."""

from pathlib import Path

import pytest

from launch.cluster.follow import folders_of, last_error, log_path
from launch.cluster.slurm import JobState
from launch.cluster.submissions import SubmittedJob, add_job, read_jobs
from shards.errors import InputError

JOB = SubmittedJob("17", "train", "slurm", "2026-01-01T00:00:00+0000", "abc", ["train"], 4)
LOST = "error (rank 0): another rank is gone or did not answer in time (Connection closed by peer [198.18.77.12]:1)"
FAILED = "error: loss is nan at pretraining step 2 (rank 0: nan); lower the learning rate"


@pytest.mark.parametrize(
    ("logs", "error"),
    [
        ({0: [LOST, "srun: error: node1: task 0: Exited with exit code 1", "srun: error: node2: task 3: Killed"], 1: [LOST]},
         "rank 3 on node2: Killed (by somebody, or by the kernel: out of memory?)"),
        ({0: ["srun: error: node1: task 0: Exited with exit code 1", FAILED, "srun: error: node1: task 1: Killed by signal"]},
         "rank 1 on node1: Killed by signal (by somebody, or by the kernel: out of memory?)"),
        ({0: [FAILED, "srun: error: node1: task 0: Exited with exit code 1"], 2: [LOST]}, f"rank 0 on node1: {FAILED}"),
        ({0: ["srun: error: node2: tasks 2-3: Exited with exit code 1"], 2: ["x", "ValueError: no such thing"]},
         "rank 2 on node2: ValueError: no such thing"),
        ({0: ["  a: failed: a.svs: there is no such file", "srun: error: node1: task 0: Exited with exit code 1"]},
         "rank 0 on node1: a: failed: a.svs: there is no such file"),
        ({2: ["KeyError: 'a'"]}, "rank 2: KeyError: 'a'"),
        ({0: ["all is well"]}, ""),
    ],
)  # fmt: skip
def test_the_rank_that_died_first_is_named(logs: dict[int, list[str]], error: str, tmp_path: Path) -> None:
    add_job(tmp_path, JOB)
    for rank, lines in logs.items():
        log_path(tmp_path, JOB, rank).write_text("\n".join(lines) + "\n")
    assert last_error(tmp_path, JOB) == error


def test_the_record_of_jobs_reads_back(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing was submitted"):
        folders_of(tmp_path)
    array = SubmittedJob("18", "tile", "slurm", "later", "abc", ["tile"], 1, elements=[["a", "b"], ["c"]], after="17")
    for job in (JOB, array):
        add_job(tmp_path / "run", job)
    assert read_jobs(tmp_path / "run") == [JOB, array]
    assert folders_of(tmp_path) == [tmp_path / "run"]
    assert (JOB.ids, array.ids) == (["17"], ["18_0", "18_1"])


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (JobState("1", "PENDING", "Resources", 0), "queued, waits: for free nodes (Resources)"),
        (JobState("1", "PENDING", "(Priority)", 2), "queued, waits: other jobs come first (Priority); requeued twice"),
        (JobState("1", "RUNNING", "None", 3, "node[1-2]"), "running on node[1-2]; requeued 3 times"),
        (JobState("1", "FAILED", "NonZeroExitCode", 0, "node1", 2), "failed (exit code 2)"),
        (JobState("1", "FAILED", "", 1, "node1", -9), "failed (signal 9); requeued once"),
        (JobState("1", "COMPLETED", "None", 0, "node1", 0), "finished"),
        (JobState("1", "OUT_OF_MEMORY"), "ran out of memory (slurm.mem)"),
    ],
)
def test_states_in_words(state: JobState, words: str) -> None:
    assert state.words() == words
