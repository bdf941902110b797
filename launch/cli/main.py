"""The `hnm` command: what it accepts and how it ends (0 done, 1 failed, 2 misuse,
75 asked to stop and saved). What the verbs do is in launch/verbs/train.py.

Only typer is imported here, so that --help answers at once; everything else is imported by the verb that needs it.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from hnm.private import hide_command_line
from launch.cli.cohort import cohort_app
from launch.cli.embed import embed
from launch.cli.encoder import encoder_app
from launch.cli.evidence import compare, crossval, report, status, ui, view
from launch.cli.imports import import_app
from launch.cli.options import (
    CohortArgument,
    ConfigOption,
    DoctorCohort,
    DoctorFolder,
    Overrides,
    PresetOption,
    RanksOption,
    file_or_name,
    finish,
    run_in_ranks,
)
from launch.cli.predict import export, predict
from launch.cli.settings import config as config_command
from launch.cli.settings import suggest, top
from launch.cli.study import study
from launch.cli.submit import cancel, logs, submit_app
from launch.cli.validate import validate
from launch.process.distributed import is_of_torchrun
from shards.secrets import scrub

# Before torch is imported: on 3 ranks and more DDP warns, in C++ and on every rank, of a choice that is made on purpose
# (hnm/engine/engine.py).
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


class InOrderOfUse(typer.core.TyperGroup):
    """The commands in the order of `PANELS`; typer lists groups before commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names as --help shows them."""
        return [name for commands in PANELS.values() for name in commands]


app = typer.Typer(
    name="hnm",
    cls=InOrderOfUse,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Train a patch encoder and a slide classifier from slide labels alone, by hard negative mining.

    slides.csv → **hnm tile** → cohort/ → **hnm pretrain** → encoder → **hnm train** → run/ → **hnm evaluate** → metrics

    New here? `hnm demo` shows the whole way on drawn slides in a few minutes.
    """,
)

def tile(
    slides_csv: Annotated[
        Path, typer.Argument(metavar="SLIDES.CSV", help="slide_id, path, label[, patient_id, split, mpp, annotation]")
    ],
    cohort: Annotated[Path, typer.Argument(metavar="COHORT", help="Folder to write.")],
    overrides: Overrides = None,
    config: ConfigOption = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 = one per core.")] = 0,
    shard_of: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Cut only every N-th slide, from the I-th on (1 to N): array jobs."),
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Cut nothing; put together what array jobs have cut.")] = False,
    preview: Annotated[int, typer.Option(min=0, metavar="N", help="Only draw what would be kept of N slides.")] = 0,
    assume_mpp: Annotated[
        float | None, typer.Option(help="Microns per pixel of slides that don't tell (tile.assume_mpp).")
    ] = None,
    magnification: Annotated[
        float | None, typer.Option(help="Short for tile.mpp = 10 / magnification: 20 is 0.5 um per pixel.")
    ] = None,
    max_failed: Annotated[
        float | None, typer.Option(help="Share of slides that may fail, 0 to 1 (tile.max_failed).")
    ] = None,
) -> None:
    """Cut slides into patches: tar shards, tables, and tiling.html to look at.

    Run it again to do only what is missing. Example: `hnm tile slides.csv cohort/ --preview 5 tile.mpp=0.5`
    """
    from launch.verbs import tile as tile_verbs

    request = tile_verbs.TileRequest(
        slides_csv,
        cohort,
        config,
        overrides or [],
        workers,
        shard_of,
        merge,
        preview,
        assume_mpp,
        magnification,
        max_failed,
    )
    finish(lambda: tile_verbs.tile(request))


def check(
    cohort: CohortArgument,
    deep: Annotated[bool, typer.Option("--deep", help="Also decode every JPEG.")] = False,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="Shards read at once.")] = 4,
) -> None:
    """Compare every shard with the patch table; exit code 1 when something is missing or damaged.

    Example: `hnm check cohort/ --deep`
    """
    from launch.verbs.cohort import run

    finish(lambda: run(cohort, deep, workers))


def pretrain(
    cohort: CohortArgument,
    out: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder to write; the result is FOLDER/encoder.safetensors.")
    ],
    overrides: Overrides = None,
    encoder: Annotated[
        Any,
        typer.Option(
            parser=file_or_name,
            metavar="FILE|NAME",
            help="Go on from this encoder: a file (.safetensors, .pth), or a name (hnm encoder list). Without it, from random "
            "weights.",
        ),
    ] = None,
    config: ConfigOption = None,
    ranks: RanksOption = 0,
) -> None:
    """Make a first encoder from unlabelled training patches (SimCLR), or go on with another one.

    Example: `hnm pretrain cohort/ pretrained/ --config colon --ranks 2`
    """
    run_in_ranks(ranks)
    from launch.verbs import train as verbs

    finish(lambda: verbs.pretrain(cohort, out, config, overrides or [], ranks, encoder))


def train(
    cohort: CohortArgument,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory to create, or to resume.")],
    overrides: Overrides = None,
    encoder: Annotated[
        Any,
        typer.Option(
            parser=file_or_name,
            metavar="FILE|NAME",
            help="Start from this encoder: a file (.safetensors, .pth), or a name (hnm encoder list). Without it, pretraining "
            "comes first.",
        ),
    ] = None,
    config: ConfigOption = None,
    preset: PresetOption = None,
    ranks: RanksOption = 0,
    restart: Annotated[
        bool, typer.Option("--restart", help="Remove the run first and begin anew; asks for --yes.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, --restart may remove what the run has.")] = False,
) -> None:
    """Run the rounds: embed, aggregate, score, mine, fine-tune, and again.

    The same command resumes a run that was stopped or killed, at phase and step. Asked to stop (Ctrl-C, TERM, USR2), it
    saves and ends with exit code 75. Example:
    `hnm train cohort/ run/ --encoder pretrained/encoder.safetensors --config colon --ranks 2`
    """
    run_in_ranks(ranks)
    from launch.verbs import train as verbs

    finish(lambda: verbs.train(cohort, run, encoder, config, preset, overrides or [], ranks, restart, yes))


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Finished run directory.")],
    ranks: RanksOption = 0,
    cohort: Annotated[Path | None, typer.Option(help="Where the cohort is now, if it has moved.")] = None,
    report: Annotated[bool, typer.Option(help="Also draw the pictures and write report.html and model/.")] = True,
) -> None:
    """Read the test split, once: metrics.json, predictions.parquet, report.html. Choices are made on validation slides.

    Example: `hnm evaluate run/`
    """
    run_in_ranks(ranks)
    from launch.verbs import train as verbs

    finish(lambda: verbs.evaluate(run, cohort, ranks, report))


def demo(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write.")] = Path("hnm-demo"),
    ranks: Annotated[int, typer.Option("--ranks", "-n", min=1, help="Processes to train with.")] = 2,
) -> None:
    """See the whole way on a small cohort of drawn whole slides with outlined tumours: `hnm demo` (a few minutes on 2 cores)."""
    from launch.verbs.demo import run

    finish(lambda: run(folder, ranks))


def doctor(
    overrides: Overrides = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Under srun, or with --ranks: measure ranks, network and shared disk.")
    ] = False,
    folder: DoctorFolder = Path("."),
    cohort: DoctorCohort = None,
    config: ConfigOption = None,
    ranks: RanksOption = 0,
    encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Also: are this encoder's weights here, or would the hub give them?")
    ] = None,
) -> None:
    """Print versions, devices, ranks and free disk, and what is missing; with --cluster what a job's ranks have.

    Example: `hnm doctor`. On a cluster: `hnm submit doctor --nodes 2 --gpus-per-node 8`, or `srun -n 16 hnm doctor --cluster`
    """
    if cluster:
        run_in_ranks(ranks)
        from launch.verbs import doctor_cluster

        finish(lambda: doctor_cluster.run(folder, cohort, config, overrides or []))
    from launch.verbs.doctor import run

    finish(lambda: run(encoder))


# What --help shows, panel by panel, in the order of use.
PANELS: dict[str, dict[str, Callable[..., None] | typer.Typer]] = {
    "The way": {"tile": tile, "check": check, "pretrain": pretrain, "train": train, "evaluate": evaluate},
    "Look": {"status": status, "report": report, "view": view, "compare": compare, "ui": ui},
    "More": {
        "study": study, "crossval": crossval, "predict": predict, "export": export, "validate": validate, "embed": embed
    },
    "On a cluster": {
        "submit": submit_app(tile, pretrain, train, evaluate, predict, validate, study, crossval, embed),
        "logs": logs, "cancel": cancel,
    },
    "Tools": {
        "demo": demo, "suggest": suggest, "doctor": doctor, "encoder": encoder_app, "cohort": cohort_app, "import": import_app,
        "config": config_command,
    },
}  # fmt: skip
app.callback()(top)
for panel, commands in PANELS.items():
    for name, command in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(command)


def main() -> None:
    """Entry point of the `hnm` script.

    It leaves by os._exit. Once, on a busy machine, a process of a pretraining whose result was written said "terminate called
    without an active exception", a C++ thread's end while the interpreter is taken down; 25 tries did not bring it back, and
    the cause was not found. Nothing is left to do at that point, so that teardown is skipped.
    """
    if is_of_torchrun():
        # slurm/train.sbatch starts torchrun with USR2 ignored, which its ranks inherit, and asks them to stop by USR2
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    hide_command_line()
    code = 0
    try:
        app()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except Exception:  # an error of the code: all of it is told, but for the passwords in it
        print(scrub(traceback.format_exc()), end="", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
