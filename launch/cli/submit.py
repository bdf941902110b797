"""`hnm submit ...`, `hnm logs`, `hnm cancel`: what these verbs accept; what they do is in submit_verbs.py and follow.py.

A submitted verb takes the local command's own arguments: they are read from the local command's signature, and the
options of the cluster are added to them.
"""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from launch.cli.options import ConfigOption, DoctorCohort, DoctorFolder, Overrides, PresetOption, RanksOption, finish

LocalCommand = Callable[..., None]
APP = "launch.cli.main:app"  # what a job runs
# The job gets the resolved configuration instead of these; --ranks becomes the number of processes on each node.
# A requeued job must not remove what it has done so far: --restart is done when the job is submitted.
RESOLVED = {"config", "preset", "overrides", "ranks", "restart", "yes"}


def _cluster_options(
    nodes: Annotated[int | None, typer.Option(min=1, help="Nodes.")] = None,
    gpus_per_node: Annotated[int | None, typer.Option(min=0, help="GPUs on each node; a rank for each.")] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPU cores of each rank.")] = None,
    mem: Annotated[str | None, typer.Option(help="Memory of each node, such as 64G.")] = None,
    time: Annotated[
        str | None, typer.Option(help="Time limit, such as 12:00:00; a job that reaches it saves and is requeued.")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Account that pays.")] = None,
    qos: Annotated[str | None, typer.Option(help="Quality of service.")] = None,
    constraint: Annotated[str | None, typer.Option(help="Features that the nodes must have.")] = None,
    exclude: Annotated[str | None, typer.Option(help="Nodes that are not to be used.")] = None,
    cluster: Annotated[
        Literal["slurm", "local", "debug"],
        typer.Option(help="slurm; local: in the background on this machine; debug: in this process."),
    ] = "slurm",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the jobs and their batch scripts only.")] = False,
) -> None:
    """Hold the options that every submitted verb has."""


def _array_options(
    throttle: Annotated[int | None, typer.Option(min=1, help="Most elements of an array at work at the same time.")] = None,
) -> None:
    """Hold the options of arrays."""


def _own_config_option(
    config: Annotated[
        str | None, typer.Option("--config", "-c", metavar="FILE", help="Your file that says how the job runs (slurm).")
    ] = None,
) -> None:
    """Hold the option of commands that take what they compute from a folder, which may be a stranger's."""


def _tiling_options(
    array_size: Annotated[int | None, typer.Option(min=1, help="Elements of the array that shares the slides.")] = None,
) -> None:
    """Hold the options of tiling."""


MORE_OPTIONS: dict[str, list[LocalCommand]] = {
    "tile": [_tiling_options, _array_options], "pipeline": [_tiling_options, _array_options], "crossval": [_array_options],
    "study": [_array_options],
    "embed": [_tiling_options, _array_options],
    "evaluate": [_own_config_option], "predict": [_own_config_option],
}  # fmt: skip


def _pipeline(
    slides_csv: Annotated[Path, typer.Argument(metavar="SLIDES.CSV", help="The table of slides, as for `hnm tile`.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Gets cohort/, pretrained/ and run/.")],
    overrides: Overrides = None,
    config: ConfigOption = None,
    preset: PresetOption = None,
) -> None:
    """From slides to metrics: a tiling array, merge, pretrain, train, evaluate, each after the one before.

    Submit it again to do what is missing. Example: `hnm submit pipeline slides.csv luad/ --config tcga_luad --dry-run`
    """


def _doctor(
    overrides: Overrides = None,
    folder: DoctorFolder = Path("."),
    cohort: DoctorCohort = None,
    config: ConfigOption = None,
    ranks: RanksOption = 0,
) -> None:
    """What the ranks of such a job have: devices, cores, clocks, network, shared disk; and what to do about it.

    Example: `hnm submit doctor --nodes 2 --gpus-per-node 8 --folder runs/`; then `hnm logs runs/`
    """


def submit_app(*commands: LocalCommand) -> typer.Typer:
    """Return the group `hnm submit` with a verb for each local command, and the pipeline."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Run a command as a job of a SLURM cluster: the local command's arguments, and what it asks for.",
    )
    everything: tuple[LocalCommand, ...] = (*commands, _pipeline, _doctor)
    for command in everything:
        group.command(name=command.__name__.strip("_"))(_submitted(command))
    return group


def _submitted(local: LocalCommand) -> LocalCommand:
    """Return a command with the arguments of `local` and the cluster's options."""
    name = local.__name__.strip("_")
    sources: list[LocalCommand] = [local, _cluster_options, *MORE_OPTIONS.get(name, [])]
    parameters = {p.name: p for source in sources for p in inspect.signature(source).parameters.values()}
    own = inspect.signature(local).parameters.keys()

    def submitted(**given: Any) -> None:
        params = {key: value for key, value in given.items() if key in own}
        options = {key: value for key, value in given.items() if key not in own}
        finish(lambda: _submit(name, local, params, options))

    submitted.__doc__ = (local.__doc__ or "").replace(f"`hnm {name} ", f"`hnm submit {name} ")
    submitted.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    submitted.__annotations__ = {key: parameter.annotation for key, parameter in parameters.items()}
    return submitted


def _submit(name: str, local: LocalCommand, params: dict[str, Any], options: dict[str, Any]) -> int:
    from launch.cluster import submit_verbs

    cluster, dry_run, config_name = options.pop("cluster"), options.pop("dry_run"), options.pop("config", None)
    flags = _overrides_of(options, None if name == "pipeline" else name)
    return submit_verbs.submit_verb(
        name, lambda config: _command(local, params, config), params, flags, cluster, APP, dry_run, config_name
    )


def _overrides_of(options: dict[str, Any], stage: str | None) -> list[str]:
    """Return the options as settings: of the verb, or of all stages of a pipeline (a stage's own in the YAML are stronger)."""
    general = {"array_size", "throttle"}
    given = {key: value for key, value in options.items() if value is not None}
    section = {key: "slurm" if stage is None or key in general else f"slurm.stages.{stage}" for key in given}
    return [f"{section[key]}.{key}={json.dumps(value)}" for key, value in given.items()]


def _command(local: LocalCommand, params: dict[str, Any], config: Path) -> list[str]:
    """Return the words of the local command, with the file of the resolved configuration in place of what made it."""
    arguments, options = [local.__name__.strip("_")], []
    for name, parameter in inspect.signature(local).parameters.items():
        value = params[name]
        is_default = value == parameter.default and not isinstance(value, Path)  # the job may begin in another folder
        if name in RESOLVED or value is None or is_default:
            continue
        values = [str(v.absolute() if isinstance(v, Path) else v) for v in (value if isinstance(value, list) else [value])]
        (info,) = parameter.annotation.__metadata__
        if not isinstance(info, typer.models.OptionInfo):
            arguments += values
        elif isinstance(value, bool):
            options.append(f"--{'' if value else 'no-'}{name.replace('_', '-')}")
        else:
            long = next((word for word in info.param_decls or () if word.startswith("--")), f"--{name.replace('_', '-')}")
            options += [word for its in values for word in (long, its)]
    return [*arguments, *options, *(["--config", str(config)] if "config" in params else [])]


RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run directory, cohort, folder of hnm pretrain, of hnm crossval, or of a pipeline.")
]


def logs(
    run: RunArgument,
    rank: Annotated[int, typer.Option(min=0, help="Which process of the job.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they are written, until the end.")] = False,
    element: Annotated[int, typer.Option(min=0, help="Which element of an array, from 0.")] = 0,
    job: Annotated[str | None, typer.Option(help="Number of the job; without it, the newest that has begun.")] = None,
) -> None:
    """Print what a submitted job has said. Example: `hnm logs run/ --rank 3 --follow`"""
    from launch.cluster import follow as jobs

    finish(lambda: jobs.logs(run, rank, element, job, follow, lambda text: print(text, end="", flush=True)))


def cancel(run: RunArgument) -> None:
    """Cancel the jobs of a run or pipeline that are queued or at work. What is saved stays. Example: `hnm cancel run/`"""
    from launch.cluster import follow as jobs

    finish(lambda: jobs.cancel(run, print))
