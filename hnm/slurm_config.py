"""The settings of `hnm submit`: section `slurm` of the configuration, and how a stage's own settings lie over the general ones.

No site's name is in the code: what is None here is left to the cluster's own default.
"""

import re
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from shards.secrets import SecretText

# days-hours[:minutes[:seconds]] | hours:minutes:seconds | minutes[:seconds]
_TIME = re.compile(r"(?:(\d+)-(\d+)(?::(\d+))?(?::(\d+))?|(\d+):(\d+):(\d+)|(\d+)(?::(\d+))?)")

EARLY_S = 60  # so much earlier than it was asked to SLURM may send the signal (man sbatch, --signal); 30 s were seen


class JobConfig(BaseModel):
    """What a job asks the cluster for. None is not asked for."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    account: str | None = Field(None, description="account that pays (sbatch --account)")
    partition: str | None = Field(None, description="partition, or several with commas (--partition)")
    qos: str | None = Field(None, description="quality of service (--qos)")
    constraint: str | None = Field(None, description="features that the nodes must have (--constraint)")
    exclude: str | None = Field(None, description="nodes that are not to be used (--exclude)")
    nodes: int | None = Field(None, ge=1, description="nodes; none: 1. hnm tile takes one node for each array element")
    gpus_per_node: int | None = Field(None, ge=0, description="GPUs on each node; none or 0: CPUs only")
    ranks_per_node: int | None = Field(
        None, ge=1, description="processes on each node; none: one per GPU, or one on a node without"
    )
    cpus: int | None = Field(
        None, ge=1, description="CPU cores of each process (--cpus-per-task); none: with GPUs the partition's for each GPU"
    )
    mem: str | None = Field(None, description="memory of each node, such as 64G (--mem)")
    time: str | None = Field(None, description="time limit, such as 12:00:00 or 1-00:00:00 (--time)")
    extra: dict[str, SecretText | int | bool] = Field(
        default_factory=dict, description="more #SBATCH lines by option, such as {mail-type: FAIL, exclusive: true}"
    )
    setup: list[SecretText] = Field(
        default_factory=list,
        description="shell lines before the command, such as 'module load cuda'; a token is read from a file there, as in "
        "export HF_TOKEN=$(cat ~/.hf_token)",
    )

    @field_validator("*")
    @classmethod
    def _one_line(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what would begin another line of a batch script; `setup` is such lines."""
        for text in value.values() if isinstance(value, dict) else [value] * (info.field_name != "setup"):
            if not str(text).isprintable():
                raise ValueError("a line break or another control character cannot stand here: write one line")
        if isinstance(value, dict) and (wrong := [key for key in value if not re.fullmatch(r"[A-Za-z][\w-]*", key)]):
            raise ValueError(f"{wrong[0]!r} is no option of sbatch: write its long name without --, such as mail-type")
        return value

    @field_validator("time", mode="before")
    @classmethod
    def _time_is_text(cls, value: Any) -> Any:
        if isinstance(value, int | float):
            raise ValueError("YAML reads 12:00:00 as a number of seconds: write it in quotes, '12:00:00'")
        if value is not None:
            minutes_of(value)
        return value

    @field_validator("mem")
    @classmethod
    def _mem_has_a_unit(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\d+[KMGT]", value):
            raise ValueError("write a number and K, M, G or T, such as 64G")
        return value


Stage = Literal[
    "tile", "merge", "pretrain", "train", "evaluate", "predict", "validate", "crossval", "study", "summary", "embed", "doctor"
]


class SlurmConfig(JobConfig):
    """How `hnm submit` runs a command on a cluster."""

    time: str | None = Field(
        "04:00:00",
        description="time limit (--time); a job that reaches it saves, goes back to the queue, and resumes",
    )
    stages: dict[Stage, JobConfig] = Field(
        default_factory=dict,
        description="what one stage wants otherwise, by stage: any of account to setup, such as slurm.stages.train.nodes=2. "
        "tile: an element of the tiling array; merge: after it; crossval, study: a fold (of a method), on one node; summary: "
        "after the folds, as for a fold but without GPUs; pretrain, train, evaluate, predict, embed, doctor: the command of "
        "that name",
    )
    signal_delay_s: int = Field(
        120, ge=5, description="seconds before the time limit at which the job is told to save (USR2)"
    )
    max_num_timeout: int = Field(100, ge=0, description="how often a job may go back to the queue at its time limit")
    array_size: int = Field(
        32, ge=1, description="elements of the tiling array, and of hnm embed's where it is given; never more than slides"
    )
    throttle: int | None = Field(None, ge=1, description="most elements at work at the same time; none: no limit")
    interface: str | None = Field(
        None, description="network interface of gloo and NCCL, such as ib0; none: the one of the node's hostname"
    )
    python: SecretText | None = Field(
        None, description="command that starts Python, such as 'apptainer exec hnm.sif python'; none: this Python"
    )

    @field_validator("stages")
    @classmethod
    def _empty_ones_say_nothing(cls, value: dict[Stage, JobConfig]) -> dict[Stage, JobConfig]:
        return {stage: job for stage, job in value.items() if job != JobConfig()}

    @model_validator(mode="after")
    def _there_is_time_to_save(self) -> "SlurmConfig":
        for stage in get_args(Stage):
            limit_s = 60 * minutes_of(resources_of(self, stage).time or "4:00:00")
            if limit_s < self.signal_delay_s + EARLY_S:
                raise ValueError(
                    f"a time limit of {limit_s} s ({stage}) leaves no time to work: SLURM tells the job to save "
                    f"{self.signal_delay_s} s (slurm.signal_delay_s) before it, and may do so {EARLY_S} s earlier. Raise "
                    "slurm.time or lower slurm.signal_delay_s"
                )
        return self

    def of_stage(self, stage: str) -> JobConfig:
        """Return what a stage itself asks for, without the general settings."""
        return {str(name): job for name, job in self.stages.items()}.get(stage, JobConfig())


def minutes_of(time: str) -> int:
    """Return a time limit of sbatch's formats in minutes, rounded up.

    Raises:
        ValueError: it is none of them, or zero.
    """
    match = _TIME.fullmatch(str(time))
    if match is None or not any(int(number) for number in match.groups() if number):
        raise ValueError(f"{time!r} is no time limit: write hours:minutes:seconds, days-hours or minutes (90)")
    days, day_hours, day_minutes, day_seconds, hours, minutes, seconds, only_minutes, only_seconds = (
        int(number or 0) for number in match.groups()
    )
    whole = (24 * days + day_hours + hours) * 60 + day_minutes + minutes + only_minutes
    return whole - -(day_seconds + seconds + only_seconds) // 60  # minus floor of minus: rounded up


def resources_of(config: SlurmConfig, *stages: str) -> JobConfig:
    """Return what the jobs of a stage ask for: its own settings over the general ones, `extra` merged by option.

    Of several stages, a later one's settings are stronger.
    """
    chosen = {name: getattr(config, name) for name in JobConfig.model_fields}
    for stage in stages:
        own = config.of_stage(stage)
        given = {name: value for name in chosen if (value := getattr(own, name)) not in (None, [])}
        chosen |= given | {"extra": chosen["extra"] | own.extra}
    return JobConfig(**chosen)
