"""Jobs of a cluster: checked, submitted through submitit, and put on record.

    JobSpec, ... ──▶ SLURM would take each? ──▶ config and code to the folders ──▶ sbatch ──▶ slurm/jobs.json

Nothing is queued and nothing is written before everything has been checked that can be checked here.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hnm.config import Config, ConfigError, record_config
from launch.cluster import slurm
from launch.cluster.job import Job
from launch.cluster.job_spec import JobSpec, executor_of, graph_lines, script_of
from launch.cluster.nodes import with_cores
from launch.cluster.snapshot import Code, read_code
from launch.cluster.submissions import SubmittedJob, add_job, live_jobs, submission_folder
from shards.claim import process
from shards.errors import InputError

CONFIG_FILE = "config.yaml"


def submit(
    specs: Sequence[JobSpec],
    config: Config,
    cluster: str,
    app: str,
    dry_run: bool,
    say: Callable[[str], None],
    before: Callable[[], None] = lambda: None,
) -> int:
    """Submit the jobs in order; a stage that another one waits for stands before it.

    Args:
        specs: at least one.
        config: the resolved configuration; it is written to the folder of each command that takes one.
        cluster: slurm; local: processes of this machine; debug: this process.
        app: the command line that the jobs run, "module:name".
        dry_run: only print the graph and the batch scripts; also where there is no SLURM to check them.
        say: prints a line.
        before: called when all is checked, just before the first job is queued.

    Returns:
        0, or the exit code of a stage that was run here and failed.

    Raises:
        InputError: a job is at work on a folder already, there is no SLURM, or it would refuse a job.
    """
    code = read_code()
    specs = _checked(specs, config, cluster, code.name, dry_run, say)
    for line in graph_lines(specs):
        say(line)
    if dry_run:
        for spec in specs if cluster == "slurm" else ():
            say(f"\n# ---- {spec.stage} ----\n{script_of(spec, config.slurm, code.name)}")
        return 0
    before()
    job_of_stage: dict[str, str] = {}
    for spec in specs:
        _prepare(spec, config, code)
        try:
            jobs = _queue(spec, config, code, cluster, app, job_of_stage.get(spec.after or ""))
        except Exception:  # whatever submitit raises: half a pipeline is not to stay in the queue
            if cluster == "slurm" and job_of_stage:
                slurm.cancel(list(job_of_stage.values()))
                say(f"{spec.stage} could not be queued: the jobs before it are cancelled")
            raise
        if cluster == "debug":
            failed = _run_here(jobs[0])
        else:
            job_of_stage[spec.stage] = _number_of(jobs)
            say(f"{spec.stage} is job {job_of_stage[spec.stage]}")
            failed = _wait(jobs[0], spec, say) if cluster == "local" and spec is not specs[-1] else 0
        if failed:
            return failed
    return 0


def _checked(
    specs: Sequence[JobSpec], config: Config, cluster: str, code: str, dry_run: bool, say: Callable[[str], None]
) -> Sequence[JobSpec]:
    """Return the jobs with the cores that they will have, when nothing speaks against them; a dry run needs no SLURM for it."""
    try:
        if cluster == "slurm" and slurm.has_slurm():
            specs = with_cores(specs)
        _require_possible(specs, config, cluster, code)
    except slurm.NoAnswerError as error:
        if not dry_run:
            raise
        say(f"note: the jobs are not checked. {error}")
    return specs


def _require_possible(specs: Sequence[JobSpec], config: Config, cluster: str, code: str) -> None:
    """Refuse what is at work already, or what the cluster would refuse."""
    for folder in dict.fromkeys(spec.folder for spec in specs):
        for job in live_jobs(folder):
            raise InputError(
                f"{folder}: job {job.job_id} ({job.stage}) is queued or at work here. Look: hnm status {folder}; end it: "
                f"hnm cancel {folder}"
            )
    if cluster == "slurm":
        _ask_slurm(specs, config, code)
    elif any(spec.nodes > 1 for spec in specs):
        raise ConfigError(f"--cluster {cluster} is this machine: it has one node. Leave out --nodes and slurm.nodes")
    elif cluster == "debug" and any(spec.tasks_per_node > 1 for spec in specs):
        raise ConfigError("--cluster debug is this process: it is one rank. --cluster local starts several")


def _ask_slurm(specs: Sequence[JobSpec], config: Config, code: str) -> None:
    """Refuse what SLURM would refuse."""
    if not slurm.has_slurm():
        raise slurm.NoAnswerError(
            "no SLURM on this machine: sbatch is not found. Log in to a machine that submits jobs, or run the command "
            "here: leave out 'submit', or give --cluster local"
        )
    for spec in specs:
        if problem := slurm.refusal(script_of(spec, config.slurm, code)):
            raise InputError(f"{spec.stage}: {problem}. Nothing was queued")


def _prepare(spec: JobSpec, config: Config, code: Code) -> None:
    """Write what a job needs: the code, and the resolved configuration where the command takes one."""
    if "--config" in spec.commands[0]:
        record_config(submission_folder(spec.folder) / CONFIG_FILE, config)
    code.write(submission_folder(spec.folder))


def _queue(spec: JobSpec, config: Config, code: Code, cluster: str, app: str, after_job: str | None) -> list[Any]:
    """Hand a job or an array to submitit and put it on record; what runs in this process leaves no record."""
    executor = executor_of(spec, config.slurm, code.name, cluster, after_job)
    with _for_local_jobs(submission_folder(spec.folder) / code.name) if cluster == "local" else nullcontext():
        if len(spec.commands) == 1:
            jobs = [executor.submit(Job(app, spec.commands[0]))]
        else:
            with executor.batch():
                jobs = [executor.submit(Job(app, command)) for command in spec.commands]
    if cluster == "debug":
        return jobs
    launcher = process(int(_number_of(jobs))) if cluster == "local" else None
    record = SubmittedJob(
        job_id=_number_of(jobs),
        stage=spec.stage,
        cluster=cluster,
        submitted=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        commit=code.commit,
        arguments=spec.commands[0],
        num_ranks=spec.nodes * spec.tasks_per_node,
        elements=spec.elements if len(spec.commands) > 1 else [],
        after=after_job,
        host=launcher.host if launcher else "",
        started=launcher.started if launcher else "",
    )
    add_job(spec.folder, record)
    return jobs


def _number_of(jobs: Sequence[Any]) -> str:
    """Return the number of a job, or of the array that has these elements."""
    return str(jobs[0].job_id).split("_")[0]


@contextmanager
def _for_local_jobs(code: Path) -> Iterator[None]:
    """Let the processes of `--cluster local` inherit the way to the copied code, and not our output.

    A pipe behind this command (`| tee`) would end with the job, hours later.
    """
    path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.stdout.flush()
    sys.stderr.flush()
    kept, nowhere = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    try:
        with _variables(PYTHONPATH=path, PYTHONSAFEPATH="1", OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1")):
            for number in (1, 2):
                os.dup2(nowhere, number)
            yield
    finally:
        for number, fd in zip((1, 2), kept, strict=True):
            os.dup2(fd, number)
            os.close(fd)
        os.close(nowhere)


@contextmanager
def _variables(**changes: str) -> Iterator[None]:
    """Change environment variables during the block; what the block itself changes is undone, too."""
    before = dict(os.environ)
    os.environ |= changes
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run_here(job: Any) -> int:
    """Run a job of `--cluster debug` and return its exit code."""
    # submitit's own job.results() sets this variable, too, but ends in pdb when something is raised
    with _variables(SUBMITIT_DEBUG_JOB_ID=str(job.job_id)):
        return int(job.submission().result())


def _wait(job: Any, spec: JobSpec, say: Callable[[str], None]) -> int:
    """Wait for a job of `--cluster local` that another stage needs, and return the exit code."""
    if job.exception() is None:
        return 0
    say(f"{spec.stage} failed, and the stages after it were not begun. See: hnm logs {spec.folder}")
    return 1
