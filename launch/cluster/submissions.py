"""What was submitted for a folder: FOLDER/slurm/jobs.json, a record per job, beside the jobs' scripts and logs.

run/slurm/  jobs.json                 the records
            code-1f0a.../             the code that they run
            train.yaml                the resolved configuration
            17_submission.sh          as it was given to sbatch; 17_0_log.out: what rank 0 of job 17 said
"""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from launch.cluster import slurm
from launch.process.run_directory import SUBFOLDER
from shards.claim import Owner, is_running
from shards.errors import InputError
from shards.files import write_json

JOB_ID = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True)
class SubmittedJob:
    """One job, or one array.

    Attributes:
        job_id: SLURM's number, or the local launcher's process.
        stage: tile, merge, pretrain, train, evaluate, predict, crossval, first, study, summary.
        cluster: slurm or local.
        submitted: when, ISO 8601.
        commit: of the code.
        arguments: the command, after `hnm`; of an array: of its first element.
        num_ranks: processes of the job, or of an element, that the cluster starts.
        elements: of an array, the slides, or the folds, of each element.
        after: the job that this one waits for.
        host: of the local launcher.
        started: when that process began (see `shards.claim.process`).
    """

    job_id: str
    stage: str
    cluster: str
    submitted: str
    commit: str
    arguments: list[str]
    num_ranks: int
    elements: list[list[str]] = field(default_factory=list)
    after: str | None = None
    host: str = ""
    started: str = ""

    @property
    def ids(self) -> list[str]:
        """The job's id, or those of an array's elements."""
        return [f"{self.job_id}_{i}" for i in range(len(self.elements))] or [self.job_id]

    @property
    def is_at_work_here(self) -> bool:
        """Is it a job of the local launcher, which is still there?"""
        return self.cluster == "local" and is_running(Owner(self.host, int(self.job_id), self.started))


def submission_folder(folder: Path) -> Path:
    """Return where a folder keeps what was submitted for it."""
    return folder / SUBFOLDER


def read_jobs(folder: Path) -> list[SubmittedJob]:
    """Return the jobs that were submitted for `folder`, oldest first.

    Raises:
        InputError: the record is damaged, or names a job by something else than a number.
    """
    path = submission_folder(folder) / "jobs.json"
    if not path.is_file():
        return []
    try:
        jobs = [SubmittedJob(**record) for record in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:  # no JSON; another shape
        raise InputError(f"{path}: is no record of submitted jobs ({error}). Remove it, and look into squeue yourself") from error
    for job in jobs:  # its log is read, its mark is written and scancel is called by this name: it may be a stranger's folder
        if not isinstance(job.job_id, str) or not JOB_ID.fullmatch(job.job_id):
            raise InputError(f"{path}: job_id={job.job_id!r} is no number of a job: damaged, or made to do harm. Remove it")
    return jobs


def add_job(folder: Path, job: SubmittedJob) -> None:
    """Put a job on record."""
    records = [asdict(known) for known in [*read_jobs(folder), job]]
    write_json(submission_folder(folder) / "jobs.json", records)


def live_jobs(folder: Path) -> list[SubmittedJob]:
    """Return the jobs of `folder` that are queued or at work."""
    jobs = read_jobs(folder)
    states = slurm.states_of([job.job_id for job in jobs if job.cluster == "slurm"])
    live = {job_id.split("_")[0] for job_id, state in states.items() if state.is_live}
    return [job for job in jobs if job.job_id in live or job.is_at_work_here]


def cancel_mark(folder: Path, job_id: str) -> Path:
    """Return the file that says, on this machine without SLURM, that a job is cancelled and not to be started again."""
    return folder / f"{job_id}_cancelled"


PIPELINE_FOLDERS = ("cohort", "pretrained", "run")

