"""What became of submitted jobs: their states in words, what went wrong and on which rank, their logs, and their end.

From files (slurm/jobs.json, the logs) and from SLURM (squeue, sacct); nothing is asked of the jobs themselves.
"""

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from launch.cluster import slurm
from launch.cluster.slurm import JobState
from launch.cluster.submissions import (
    PIPELINE_FOLDERS,
    SubmittedJob,
    cancel_mark,
    live_jobs,
    read_jobs,
    submission_folder,
)
from shards.errors import InputError

TAIL_BYTES = 64 << 10  # of a log: the error of a rank is at its end
POLL_S = 1.0
DONE = "Job completed successfully"  # submitit says so in every rank's log
DIED = re.compile(r"srun: error: (\S+): tasks? (\d+)[\d,-]*: (.+)")
ERROR = re.compile(r"^(error( \(rank \d+\))?: |(\w+\.)*\w*(Error|Exception)\b| +\S+: failed: ).*")  # the last: of a slide


def folders_of(folder: Path) -> list[Path]:
    """Return the folders with submitted jobs: this one, or those of a pipeline.

    Raises:
        InputError: nothing was submitted here.
    """
    found = [path for path in _candidates(folder) if (submission_folder(path) / "jobs.json").is_file()]
    if not found:
        raise InputError(f"{folder}: nothing was submitted for this folder (no slurm/jobs.json)")
    return found


def _candidates(folder: Path) -> list[Path]:
    return [folder, *(folder / name for name in PIPELINE_FOLDERS)]


def job_lines(folder: Path) -> tuple[list[str], bool]:
    """Return the last job of each stage in words, with what went wrong; and whether one has failed for good."""
    last_of_stage = {job.stage: job for job in read_jobs(folder)}
    jobs = sorted(last_of_stage.values(), key=lambda job: job.submitted)
    states = slurm.states_of([job.job_id for job in jobs if job.cluster == "slurm"])
    merge = last_of_stage.get("merge")
    # an element that failed is told, but the merge after it judges by tile.max_failed whether that is a failure
    merged = merge is not None and merge.job_id in states and states[merge.job_id].state == "COMPLETED"
    lines, failed = [], False
    for job in jobs:
        job_states = _states(folder, job, states)
        lines.append(f"{job.stage}, job {job.job_id}: {_in_words(job, job_states)}")
        for number, state in enumerate(job_states):
            if state is None or state.is_live or state.state == "COMPLETED":
                continue
            failed |= state.state != "CANCELLED" and not (job.elements and merged)
            if job.elements:
                what = "its slides: " if job.stage == "tile" else ""
                lines.append(f"  element {number} {state.words()}; {what}{', '.join(job.elements[number])}")
            if error := last_error(folder, job, number):
                lines.append(f"  {error}")
    return lines, failed


def print_status(folder: Path) -> int:
    """Print where a run, cohort, cross-validation, study or pipeline is; the exit code is 1 when something failed or fell silent.

    Raises:
        InputError: it is neither a run, nor was anything submitted for it.
    """
    from launch.process import status

    lines_of = lines_of_many(folder)
    if not (lines_of or was_submitted(folder)):
        return status.print_status(folder)
    code = 0
    if lines_of:
        lines, is_silent = lines_of(folder)
        print(f"{folder}:", *lines, sep="\n  ", flush=True)
        if not was_submitted(folder):
            return int(is_silent)
    for path in folders_of(folder):
        lines, failed = job_lines(path)
        print(f"{path}:", *lines, sep="\n  ", flush=True)
        if (path / "state.json").is_file():
            silent = status.print_status(path)
            failed |= bool(silent) and not live_jobs(path)  # a job in the queue gives no sign of life, and is not lost
        code |= int(failed)
    return code


def lines_of_many(folder: Path) -> Callable[[Path], tuple[list[str], bool]] | None:
    """Return what tells how far a folder of many runs has come, lines and whether one has ended badly; None: it is none."""
    if (folder / "crossval.json").is_file():
        from launch.verbs.crossval_page import lines_of_folds

        return lines_of_folds
    if (folder / "plan.json").is_file():
        from launch.verbs.study_page import lines_of_study

        return lines_of_study
    return None


def was_submitted(folder: Path) -> bool:
    """Has anything been submitted for this folder?"""
    return any((submission_folder(path) / "jobs.json").is_file() for path in _candidates(folder))


def _states(folder: Path, job: SubmittedJob, states: dict[str, JobState]) -> list[JobState | None]:
    """Return the state of a job, or of each element of an array; None: SLURM has forgotten it."""
    if job.cluster == "slurm":
        return [states.get(job_id) for job_id in job.ids]
    if job.is_at_work_here:
        return [JobState(job.job_id, "RUNNING", nodes=f"{job.host}, process {job.job_id}")]
    if cancel_mark(submission_folder(folder), job.job_id).is_file():
        return [JobState(job.job_id, "CANCELLED")]
    done = all(any(DONE in line for line in _tail(log_path(folder, job, rank))) for rank in range(job.num_ranks))
    return [JobState(job.job_id, "COMPLETED" if done else "FAILED")]


def _in_words(job: SubmittedJob, states: list[JobState | None]) -> str:
    if len(states) == 1:
        return states[0].words() if states[0] else "ended, and SLURM has forgotten how"
    counts = Counter(state.words().split(";")[0] if state else "ended" for state in states)
    return f"{len(states)} elements: " + ", ".join(f"{number} {words}" for words, number in counts.most_common())


def log_path(folder: Path, job: SubmittedJob, rank: int = 0, element: int = 0) -> Path:
    """Return the log of one rank of a job, or of an element of an array."""
    job_id = f"{job.job_id}_{element}" if job.elements else job.job_id
    return submission_folder(folder) / f"{job_id}_{rank}_log.out"


def last_error(folder: Path, job: SubmittedJob, element: int = 0) -> str:
    """Return what ended a job, with the rank and node it happened on, from its logs; "" if they say nothing."""
    tails = {rank: _tail(log_path(folder, job, rank, element)) for rank in range(job.num_ranks)}
    deaths = [match.groups() for line in tails[0] if (match := DIED.match(line))]
    # whoever was killed comes before those who noticed it
    deaths.sort(key=lambda death: 0 if "Kill" in death[2] or "Memory" in death[2] else 1)
    first = int(deaths[0][1]) if deaths else None
    for rank in [*([first] if first is not None else []), *tails]:
        errors = [line for line in tails.get(rank, []) if ERROR.match(line)]
        if errors and not (deaths and "Kill" in deaths[0][2]):
            return f"rank {rank}{f' on {deaths[0][0]}' if rank == first else ''}: {errors[-1].strip()}"
    if deaths:
        node, rank_text, how = deaths[0]
        memory = " (by somebody, or by the kernel: out of memory?)" if "Kill" in how else ""
        return f"rank {rank_text} on {node}: {how}{memory}"
    return ""


def _tail(path: Path) -> list[str]:
    """Return the last lines of a log, none if there is no such file."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []


def cancel(folder: Path, say: Callable[[str], None]) -> int:
    """Cancel all jobs of a folder or pipeline that are queued or at work."""
    jobs = [(path, job) for path in folders_of(folder) for job in live_jobs(path)]
    if not jobs:
        say(f"{folder}: no job is queued or at work")
        return 0
    if on_slurm := [job.job_id for _, job in jobs if job.cluster == "slurm"]:
        slurm.cancel(on_slurm)
    for path, job in jobs:
        if job.cluster == "local":
            cancel_mark(submission_folder(path), job.job_id).touch()
            os.kill(int(job.job_id), signal.SIGTERM)
    names = ", ".join(f"{job.stage} (job {job.job_id})" for _, job in jobs)
    say(f"cancelled {names}. What is saved stays: submit the same again to go on")
    return 0


def logs(folder: Path, rank: int, element: int, job_id: str | None, follow: bool, say: Callable[[str], None]) -> int:
    """Print the log of one rank of the newest job that has begun, or of the job that is named.

    Args:
        folder: a run, cohort or pretrained encoder, or a pipeline.
        rank: of the job.
        element: of an array.
        job_id: None: the newest that has begun and, with `follow`, those after it.
        follow: go on printing until no job is left.
        say: prints text as it is.
    """
    seen: set[str] = set()
    while True:
        known = [(path, job) for path in folders_of(folder) for job in read_jobs(path)]
        if job_id is not None and job_id not in [job.job_id for _, job in known]:
            raise InputError(f"{folder}: job {job_id} was not submitted for this folder")
        logs_of = [
            (path, job, log_path(path, job, rank, element)) for path, job in known if job_id in (None, job.job_id)
        ]
        begun = [(path, job, log) for path, job, log in logs_of if log.is_file() and job.job_id not in seen]
        if begun:
            path, job, log = max(begun, key=lambda found: found[2].stat().st_mtime)
            say(f"==> {job.stage}, job {job.job_id}, rank {rank}: {log} <==\n")
            for text in _text_of(path, job, log, follow):
                say(text)
            seen |= {job.job_id for _, job, _ in begun}
        elif not follow and not seen:
            raise InputError(f"{logs_of[-1][2]}: there is no such log (yet). See: hnm status {folder}")
        if not follow or not any(live_jobs(path) for path in folders_of(folder)):
            return 0
        time.sleep(POLL_S)


def _text_of(folder: Path, job: SubmittedJob, log: Path, follow: bool) -> Iterator[str]:
    """Yield the text of a log, as it is written if `follow`, until its job has ended."""
    place = 0
    while True:
        is_over = not follow or job.job_id not in [live.job_id for live in live_jobs(folder)]
        with open(log, encoding="utf-8", errors="replace") as file:
            file.seek(place)
            if text := file.read():
                yield text
            place = file.tell()
        if is_over:
            return
        time.sleep(POLL_S)
