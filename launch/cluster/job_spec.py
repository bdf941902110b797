"""A job before it is submitted, and its translation for submitit: the one place where the settings become `#SBATCH` lines."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hnm.slurm_config import JobConfig, SlurmConfig, minutes_of, resources_of
from launch.cluster.submissions import submission_folder
from shards.errors import InputError
from shards.secrets import SecretText


@dataclass(frozen=True)
class JobSpec:
    """A job, or an array of jobs.

    Attributes:
        stage: tile, merge, pretrain, train, ...
        folder: that it writes; its logs go there too.
        commands: arguments after `hnm`; several: an array.
        resources: what it asks for.
        ranks_per_node: processes on a node.
        starts_ranks: one process a node, which starts these itself.
        elements: the slides, or the folds, of each command; none if it is no array.
        after: the stage that has to end before.
        after_failure_too: it starts however that stage ends; else only if it ends well.
        remark: on what it asks for, told with it.
    """

    stage: str
    folder: Path
    commands: list[list[str]]
    resources: JobConfig
    ranks_per_node: int = 1
    starts_ranks: bool = False
    elements: list[list[str]] = field(default_factory=list)
    after: str | None = None
    after_failure_too: bool = False
    remark: str = ""

    @property
    def nodes(self) -> int:
        """Nodes of the job, or of an element."""
        return self.resources.nodes or 1

    @property
    def tasks_per_node(self) -> int:
        """Processes that the cluster starts on a node."""
        return 1 if self.starts_ranks else self.ranks_per_node

    @property
    def cpus_per_task(self) -> int | None:
        """CPU cores of a process that the cluster starts: its own, or those of the ranks that it starts."""
        return self.ranks_per_node * (self.resources.cpus or 1) if self.starts_ranks else self.resources.cpus

    @property
    def condition(self) -> str:
        """SLURM's word for when it may start."""
        return "afterany" if self.after_failure_too else "afterok"


def parallel_job(
    stage: str, folder: Path, command: list[str], config: SlurmConfig, ranks: int = 0, after: str | None = None
) -> JobSpec:
    """Return a job on the stage's nodes, with a process per GPU unless `ranks` or the configuration says otherwise."""
    resources = resources_of(config, stage)
    ranks_per_node = ranks or resources.ranks_per_node or resources.gpus_per_node or 1
    return JobSpec(stage, folder, [command], resources, ranks_per_node, after=after)


def graph_lines(specs: Sequence[JobSpec]) -> list[str]:
    """Return the jobs and what each waits for, a line each."""
    lines = []
    for spec in specs:
        asked = [f"{len(spec.commands)} elements"] * (len(spec.commands) > 1)
        asked.append(_number(spec.nodes, "node") + " x " + _number(spec.ranks_per_node, "rank"))
        named = ("partition", "gpus_per_node", "cpus", "mem", "time")
        asked += [f"{name} {value}" for name in named if (value := getattr(spec.resources, name)) is not None]
        waits = f"after {spec.after} ({spec.condition})" if spec.after else "at once"
        lines.append(f"{spec.stage:<9} {waits:<24} {', '.join(asked)}" + (f" ({spec.remark})" if spec.remark else ""))
    return lines


def script_of(spec: JobSpec, config: SlurmConfig, code: str) -> str:
    """Return the batch script as submitit writes it; the number of a job that is not queued yet is left open."""
    with _srun_or_not():
        executor = executor_of(spec, config, code, "slurm")._executor
    if len(spec.commands) > 1:
        executor.parameters["map_count"] = len(spec.commands)
    text = str(executor._make_submission_file_text(executor._submitit_command_str, ""))
    waits = f"##SBATCH --dependency={spec.condition}:<job of {spec.after}>\n" if spec.after else ""
    return text.replace("# Parameters\n", f"# hnm {' '.join(map(_in_one_line, spec.commands[0]))}\n{waits}", 1)


@contextmanager
def _srun_or_not() -> Iterator[None]:
    """Let submitit write batch scripts also on a machine without srun, where they are only looked at."""
    from submitit import SlurmExecutor

    own = SlurmExecutor.__dict__["affinity"]
    setattr(SlurmExecutor, "affinity", classmethod(lambda _: 1))  # noqa: B010
    try:
        yield
    finally:
        setattr(SlurmExecutor, "affinity", own)  # noqa: B010


def executor_of(spec: JobSpec, config: SlurmConfig, code: str, cluster: str, after_job: str | None = None) -> Any:
    """Return submitit's executor for a job.

    Args:
        spec: the job.
        config: what holds for all jobs.
        code: name of the folder, beside the logs, of the code to run.
        cluster: slurm, local or debug.
        after_job: number of the job to wait for.
    """
    import submitit

    wanted = spec.resources
    if not str(spec.folder).isprintable():
        raise InputError(f"{str(spec.folder)!r}: a batch script cannot name this folder. Rename it without control characters")
    python = {"slurm_python": _in_script("python", config.python)} if config.python and cluster == "slurm" else {}
    executor = submitit.AutoExecutor(
        submission_folder(spec.folder), cluster, slurm_max_num_timeout=config.max_num_timeout, **python
    )
    # requeue: after a node failure and a preemption, whatever the site's default
    extra: dict[str, Any] = {"requeue": True}
    extra |= {name: _in_script("extra", v) if isinstance(v, SecretText) else v for name, v in wanted.extra.items()}
    setup = [_in_script("setup", line) for line in wanted.setup]
    if after_job:
        extra |= {"dependency": f"{spec.condition}:{after_job}", "kill-on-invalid-dep": "yes"}
    # --kill-on-bad-exit: when a rank dies, the others are ended too. Since 22.05 srun does not see sbatch's --cpus-per-task
    srun_args = ["--kill-on-bad-exit=1"] + ([f"--cpus-per-task={spec.cpus_per_task}"] if spec.cpus_per_task else [])
    executor.update_parameters(
        name=f"hnm-{spec.stage}",
        timeout_min=minutes_of(wanted.time or "04:00:00"),
        nodes=spec.nodes,
        tasks_per_node=spec.tasks_per_node,
        cpus_per_task=spec.cpus_per_task,
        gpus_per_node=wanted.gpus_per_node or None,
        stderr_to_stdout=True,
        slurm_account=wanted.account,
        slurm_partition=wanted.partition,
        slurm_qos=wanted.qos,
        slurm_constraint=wanted.constraint,
        slurm_exclude=wanted.exclude,
        slurm_mem=wanted.mem,
        slurm_signal_delay_s=config.signal_delay_s,
        slurm_array_parallelism=config.throttle or len(spec.commands),
        slurm_setup=[*setup, *environment_lines(submission_folder(spec.folder) / code, config, spec)],
        slurm_srun_args=srun_args,
        slurm_additional_parameters=extra,
    )
    return executor


def environment_lines(code: Path, config: SlurmConfig, spec: JobSpec) -> list[str]:
    """Return the shell lines that make a job run the copied code, with its own share of the cores."""
    cores = str(spec.resources.cpus or 1) if spec.starts_ranks else "${SLURM_CPUS_PER_TASK:-1}"
    lines = [
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{cores}}}",
    ]
    if config.interface:
        name = shlex.quote(config.interface)
        lines.append(f"export GLOO_SOCKET_IFNAME={name} NCCL_SOCKET_IFNAME={name}")
    return lines


def _in_script(name: str, text: SecretText) -> str:
    """Return a text of the settings for a batch script, which lies in the folder of the job and in SLURM's records.

    Raises:
        InputError: it has a password or a token in it.
    """
    if text.shown != text.reveal():
        raise InputError(
            f"slurm.{name}: {text}: others may read a batch script. Keep the secret in a file of yours, and write "
            "NAME=$(cat FILE) into slurm.setup"
        )
    return text.reveal()


def _in_one_line(word: str) -> str:
    """Return a word of a command as a shell reads it; what is not printable, as Python writes it."""
    return shlex.quote(word) if word.isprintable() else shlex.quote(repr(word))


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count > 1)}"
