"""Jobs of a cluster: checked, submitted through submitit, and put on record.

    JobSpec, ... ──▶ SLURM would take each? ──▶ config and code to the folders ──▶ sbatch ──▶ slurm/jobs.json

Nothing is queued and nothing is written before everything has been checked that can be checked here.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hnm.config import Config, ConfigError, dump_config
from launch import slurm
from launch.job import Job
from launch.job_spec import JobSpec, executor_of, graph_lines, script_of
from launch.snapshot import Code, read_code
from launch.submissions import SubmittedJob, add_job, live_jobs, submission_folder
from shards.claim import process
from shards.errors import InputError
from shards.files import whole_file

CONFIG_FILE = "config.yaml"


def submit(
    specs: Sequence[JobSpec],
    config: Config,
    cluster: str,
    dry_run: bool,
    say: Callable[[str], None],
    before: Callable[[], None] = lambda: None,
) -> int:
    """Submit the jobs in order; a stage that another one waits for stands before it.

    Args:
        specs: at least one.
        config: the resolved configuration; it is written to each folder.
        cluster: slurm; local: processes of this machine; debug: this process.
        dry_run: only print the graph and the batch scripts.
        say: prints a line.
        before: called when all is checked, just before the first job is queued.

    Returns:
        0, or the exit code of a stage that was run here and failed.

    Raises:
        InputError: a job is at work on a folder already, there is no SLURM, or it would refuse a job.
    """
    code = read_code()
    for folder in dict.fromkeys(spec.folder for spec in specs):
        for job in live_jobs(folder):
            raise InputError(
                f"{folder}: job {job.job_id} ({job.stage}) is queued or at work here. Look: hnm status {folder}; end it: "
                f"hnm cancel {folder}"
            )
    if cluster == "slurm":
        _ask_slurm(specs, config, code.name)
    elif any(spec.nodes > 1 for spec in specs):
        raise ConfigError(f"--cluster {cluster} is this machine: it has one node. Leave out --nodes and slurm.nodes")
    for line in graph_lines(specs):
        say(line)
    if dry_run:
        for spec in specs if cluster == "slurm" else ():
            say(f"\n# ---- {spec.stage} ----\n{script_of(spec, config.slurm, code.name)}")
        return 0
    before()
    job_of_stage: dict[str, str] = {}
    for spec in specs:
        _prepare(spec.folder, config, code)
        try:
            jobs = _queue(spec, config, code, cluster, job_of_stage.get(spec.after or ""))
        except Exception:  # whatever submitit raises: half a pipeline is not to stay in the queue
            if cluster == "slurm" and job_of_stage:
                slurm.cancel(list(job_of_stage.values()))
                say(f"{spec.stage} could not be queued: the jobs before it are cancelled")
            raise
        job_of_stage[spec.stage] = str(jobs[0].job_id).split("_")[0]
        if cluster != "slurm" and (failed := _wait(jobs, cluster, is_last=spec is specs[-1])):
            return failed
        say(f"{spec.stage} is job {job_of_stage[spec.stage]}")
    return 0


def _ask_slurm(specs: Sequence[JobSpec], config: Config, code: str) -> None:
    """Refuse what SLURM would refuse."""
    if not slurm.has_slurm():
        raise InputError(
            "no SLURM on this machine: sbatch is not found. Log in to a machine that submits jobs, or run the command "
            "here: leave out 'submit', or give --cluster local"
        )
    for spec in specs:
        if problem := slurm.refusal(script_of(spec, config.slurm, code)):
            raise InputError(f"{spec.stage}: {problem}. Nothing was queued")


def _prepare(folder: Path, config: Config, code: Code) -> None:
    """Write what the jobs of a folder need: the resolved configuration, and the code."""
    with whole_file(submission_folder(folder) / CONFIG_FILE) as temporary:
        temporary.write_text(dump_config(config), encoding="utf-8")
    code.write(submission_folder(folder))


def _queue(spec: JobSpec, config: Config, code: Code, cluster: str, after_job: str | None) -> list[Any]:
    """Hand a job or an array to submitit and put it on record."""
    executor = executor_of(spec, config.slurm, code.name, cluster, after_job)
    with _environment(submission_folder(spec.folder) / code.name, cluster):
        if len(spec.commands) == 1:
            jobs = [executor.submit(Job(spec.commands[0]))]
        else:
            with executor.batch():
                jobs = [executor.submit(Job(command)) for command in spec.commands]
    job_id = str(jobs[0].job_id).split("_")[0]
    launcher = process(int(job_id)) if cluster == "local" else None
    record = SubmittedJob(
        job_id=job_id,
        stage=spec.stage,
        cluster=cluster,
        submitted=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        commit=code.commit,
        arguments=spec.commands[0],
        num_ranks=spec.nodes * spec.ranks_per_node,
        elements=spec.elements if len(spec.commands) > 1 else [],
        after=after_job,
        host=launcher.host if launcher else "",
        started=launcher.started if launcher else "",
    )
    add_job(spec.folder, record)
    return jobs


@contextmanager
def _environment(code: Path, cluster: str) -> Iterator[None]:
    """Let the processes of `--cluster local` run the copied code: they inherit this process's environment."""
    before = dict(os.environ)
    if cluster == "local":
        path = os.pathsep.join([str(code), *filter(None, [before.get("PYTHONPATH")])])
        os.environ |= {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _wait(jobs: Sequence[Any], cluster: str, is_last: bool) -> int:
    """Run `debug` jobs; wait for `local` ones that another stage needs. Return the exit code."""
    if cluster == "local" and is_last:
        return 0
    for job in jobs:
        if (error := job.exception()) is not None:
            print(error)
            return 1
    return 0
