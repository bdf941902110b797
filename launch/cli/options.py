"""What several verbs of the command line share: their options, and how a verb ends the process."""

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer

from launch.process.distributed import adopt_launcher, is_rank, rank_of_process, size_of_process
from shards.errors import InputError

NO_RIGHT = (errno.EROFS, errno.EACCES, errno.EPERM)
BROKEN = (errno.EIO, errno.ESTALE)

ConfigOption = Annotated[
    str | None,
    typer.Option("--config", "-c", metavar="NAME|FILE", help="A packaged config (demo, colon, ...) or a YAML file."),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset", "-p", metavar="NAME",
        help="The method: hnm (the default), hnm-paper, its2clr, slide, hnm-slide; with a frozen encoder dsmil, frozen, simlp.",
    ),
]
RanksOption = Annotated[
    int, typer.Option("--ranks", "-n", min=0, help="Processes on this machine; 0 = one per GPU, or one on a CPU.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SECTION.KEY=VALUE]...", help="Settings that override the config, e.g. mining.neg_ratio=0.05"
    ),
]
CohortArgument = Annotated[Path, typer.Argument(metavar="COHORT", help="Folder that `hnm tile` wrote.")]
DoctorFolder = Annotated[Path, typer.Option(help="With --cluster: try the disk here, where run directories would be.")]
DoctorCohort = Annotated[Path | None, typer.Option(help="With --cluster: read the shards of this cohort.")]
MovedCohort = Annotated[Path | None, typer.Option("--cohort", help="Where the cohort is now, if it has moved.")]


def file_or_name(text: str) -> Path | str:
    """Return a path if there is such a file, else the text: a path goes with a job into another folder, a name stays."""
    return Path(text) if Path(text).exists() else text


def run_in_ranks(ranks: int) -> None:
    """Start this very command in several processes and end with their exit code; return if this one is to do the work.

    Nothing heavy is imported here: the launcher only waits.
    """
    try:
        adopt_launcher()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    if is_rank():  # torchrun, srun, mpirun or ourselves started this process
        if ranks and ranks != size_of_process():
            started = f"a launcher has started {size_of_process()} ranks already (WORLD_SIZE)"
            print(f"error: --ranks {ranks}: {started}. Leave --ranks out", file=sys.stderr)
            raise typer.Exit(2)
        return
    if ranks < 2:
        return
    from launch.process.local import run_ranks

    raise typer.Exit(run_ranks(ranks, sys.argv[1:]))


def finish(action) -> None:  # type: ignore[no-untyped-def]
    """Run a verb and end the process with its exit code; what the user can mend is said without a traceback."""
    from hnm.config import ConfigError
    from launch.process.preemption import TRY_AGAIN, Preempted, hand_over
    from launch.process.said import in_words, say_error

    try:
        code = action()
    except Preempted as stop:
        if rank_of_process() == 0:
            print(f"{stop}; the same command goes on there", file=sys.stderr, flush=True)
        hand_over()
        code = TRY_AGAIN
    except (InputError, FloatingPointError) as error:
        say_error(error, str(error))
        code = 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        if (remedy := _remedy(error)) is None:
            if size_of_process() > 1:
                say_error(error, in_words(error))
            raise
        say_error(error, f"{error.filename or 'a file of the run'}: {error.strerror}. {remedy}")
        code = 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        code = 130
    except Exception as error:
        if size_of_process() > 1:  # a traceback does not say which rank it is of
            say_error(error, in_words(error))
        raise
    raise typer.Exit(code or 0)


def _remedy(error: OSError) -> str | None:
    """Return what can be done about a file that cannot be written or read; None: it is an error of ours."""
    from shards.files import NO_ROOM

    if error.errno in NO_ROOM:
        return "What was whole before stays; make room, and the same command goes on there"
    if error.errno in NO_RIGHT:
        return "Give yourself the right to write there, or mount it for writing, or give another folder"
    if error.errno in BROKEN:
        return "What was whole before stays; mend the disk or the mount, and the same command goes on there"
    return None
