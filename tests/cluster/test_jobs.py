"""Single jobs on a real SLURM: told, cancelled, killed; and the batch scripts that need no submitit."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from launch.cluster import slurm
from launch.cluster.submissions import read_jobs
from shards.cohort.cohort import Cohort
from tests.cluster.lab import hnm, intruder, no_orphans, sbatch, signal_rank, state_of, until, until_state
from tests.tiny import TILE, TINY

pytestmark = pytest.mark.slow
LONG_S = 600.0


def said(*arguments: str | Path) -> str:
    """Return what a command prints, in one line."""
    return " ".join(hnm(*arguments).output.split())


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """End a test's jobs, also if it failed."""
    yield
    for record in tmp_path.rglob("jobs.json"):
        hnm("cancel", record.parents[1])


def test_queued_running_and_requeued_jobs_are_told_and_cancelled(tiny_cohort: Path, tmp_path: Path) -> None:
    held, running, requeued = (tmp_path / name for name in ("held", "running", "requeued"))
    pretrain = ("submit", "pretrain", tiny_cohort, "--partition", "high")  # another test's intruder does not evict them
    assert hnm(*pretrain, held, "--nodes", "2", "slurm.extra={hold: true}", *TINY).exit_code == 0
    for folder in (running, requeued):
        assert hnm(*pretrain, folder, *TINY, "pretrain.epochs=10000").exit_code == 0
    assert "queued, waits: held by its owner: scontrol release (JobHeldUser)" in said("status", held)
    assert "there is no such log (yet)" in said("logs", held)
    again = hnm(*pretrain, held, *TINY)
    assert (again.exit_code, "is queued or at work here" in " ".join(again.stderr.split())) == (1, True)
    for folder in (running, requeued):
        until(lambda: "rank 0 of 1 on node" in said("logs", folder), "a log", every_s=1.0)  # noqa: B023 - called at once
    assert "running on node" in said("status", running)
    (job,) = read_jobs(requeued)
    slurm.ask("scontrol", "requeue", job.job_id)
    until_state(job.job_id, "PENDING")
    assert "queued, waits: it was requeued a moment ago (BeginTime); requeued once" in said("status", requeued)
    for folder in (held, running, requeued):
        assert "cancelled pretrain (job" in said("cancel", folder)
        until_state(read_jobs(folder)[0].job_id, "CANCELLED")
        assert "cancelled" in said("status", folder)
        assert "no job is queued or at work" in said("cancel", folder)


def test_a_killed_rank_ends_its_job_and_those_after_it(tiny_slides: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    shutil.copytree(tiny_cohort, folder / "cohort")
    submit = ["submit", "pipeline", tiny_slides, folder, "--nodes", "2", "slurm.ranks_per_node=2"]
    submit += [*TILE, *TINY, "pretrain.epochs=1000"]
    assert hnm(*submit).exit_code == 0
    (pretrain,) = read_jobs(folder / "pretrained")
    until_state(pretrain.job_id, "RUNNING")
    until((folder / "pretrained" / "state.json").is_file, "the ranks to meet")
    signal_rank(folder / "pretrained", 3, "node2", signal.SIGKILL)
    until_state(pretrain.job_id, "FAILED")
    no_orphans(folder)
    failed = hnm("status", folder)
    assert failed.exit_code == 1
    assert "rank 3 on node2: Killed" in " ".join(failed.output.split())
    for job in read_jobs(folder / "run"):
        until_state(job.job_id, "CANCELLED")
    again = hnm(*submit, "--dry-run").output.splitlines()  # the cohort is whole
    assert [line.split()[0] for line in again[:3]] == ["pretrain", "train", "evaluate"]


def test_the_batch_scripts_without_submitit(tiny_slides: Path, tmp_path: Path) -> None:
    cohort, run = tmp_path / "cohort", tmp_path / "run"
    tile = [tiny_slides, cohort, *TILE]
    options = ["-c", "1", "-o", f"{tmp_path}/%x-%A-%a.log"]
    array = sbatch("tile_array.sbatch", [*options, "--array=1-2"], *tile)
    then = ["--array=1-1", f"--dependency=afterany:{array}", "--export=ALL,MERGE=1"]
    merge = sbatch("tile_array.sbatch", [*options, *then], *tile)
    until_state(f"{merge}_1", "COMPLETED", "FAILED")
    assert Cohort.open(cohort).info["totals"]["status"]["done"] == 10
    job = sbatch("train.sbatch", ["-N", "2", "-o", tmp_path / "run.log"], cohort, run, *TINY, "rounds.num_rounds=0")
    until_state(job, "COMPLETED", "FAILED")
    log = (tmp_path / "run.log").read_text()
    assert state_of(job) == "COMPLETED", log
    assert "done. Next: hnm evaluate" in log
    assert len(list((run / "log").glob("rank-*.log"))) == 4


def test_a_cross_validation_is_preempted_goes_on_and_is_summed_up(tiny_cohort: Path, tmp_path: Path) -> None:
    out, here = tmp_path / "cv", tmp_path / "here"
    settings = ["--folds", "3", "--preset", "hnm", *TINY, "rounds.num_rounds=1", "finetune.batch_size=8"]
    submit = ["submit", "crossval", tiny_cohort, out, "--gpus-per-node", "2", "--throttle", "2", *settings]
    assert hnm(*submit).exit_code == 0
    folds, summary = read_jobs(out)
    until(lambda: any(out.glob("repeat-0/fold-*/encoder-start.safetensors")), "a fold to be in the middle", LONG_S, every_s=0.1)
    intruder()  # ends both elements that are at work: they save and come back
    until_state(summary.job_id, "COMPLETED", "CANCELLED", "FAILED", timeout_s=LONG_S)
    told = said("status", out)
    assert f"crossval, job {folds.job_id}: 3 elements: 3 finished" in told
    assert any(state.restarts for state in slurm.states_of([folds.job_id]).values())
    log = hnm("logs", out, "--job", folds.job_id, "--element", "0").output
    assert "No other fold is begun; the same command goes on there" in log
    assert pq.read_table(out / "predictions.parquet").num_rows == 10
    assert hnm("crossval", tiny_cohort, here, "--ranks", "2", "--fold", "1/3", *settings).exit_code == 0  # of element 0
    ours, undisturbed = (pq.read_table(folder / "repeat-0" / "fold-0" / "predictions.parquet") for folder in (out, here))
    assert ours.equals(undisturbed)
    assert "everything is done, nothing was submitted" in said(*submit)


def test_the_batch_script_of_a_cross_validation_goes_back_to_the_queue(tiny_cohort: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "cv", tmp_path / "cv.log"
    settings = ["--folds", "3", "--preset", "hnm", *TINY, "rounds.num_rounds=1", "finetune.batch_size=8"]
    options = ["-c", "1", "--array=1-1", "--export=ALL,RANKS_PER_NODE=1", "-o", log]
    job = sbatch("crossval_array.sbatch", options, tiny_cohort, out, *settings)
    until((out / "repeat-0" / "fold-0" / "encoder-start.safetensors").is_file, "a fold to be in the middle", LONG_S)
    slurm.ask("scancel", "--batch", "--signal=USR2", f"{job}_1")
    until_state(f"{job}_1", "COMPLETED", "FAILED", timeout_s=LONG_S)
    assert "asked to stop: the job goes back to the queue and resumes" in log.read_text()
    assert state_of(f"{job}_1") == "COMPLETED", log.read_text()
    assert (out / "metrics.json").is_file()
