"""The `hnm` command: what it accepts and how it ends (0 done, 1 failed, 2 misuse). What the verbs do is in launch/verbs.py.

Only typer is imported here, so that --help answers at once; everything else is imported by the verb that needs it.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="hnm",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Train a patch encoder and a slide classifier from slide labels alone, by hard negative mining.

    slides.csv → **hnm tile** → cohort/ → **hnm pretrain** → encoder → **hnm train** → run/ → **hnm evaluate** → metrics

    New here? `hnm demo` shows the whole way on drawn slides in three minutes.
    """,
)

ConfigOption = Annotated[
    str | None,
    typer.Option("--config", "-c", metavar="NAME|FILE", help="A packaged config (demo, colon, ...) or a YAML file."),
]
PresetOption = Annotated[
    str | None, typer.Option("--preset", "-p", metavar="NAME", help="The method: hnm, hnm-paper, its2clr or dsmil.")
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


@app.command()
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
    from launch import tile_verbs

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
    _finish(lambda: tile_verbs.tile(request))


@app.command()
def check(
    cohort: CohortArgument,
    deep: Annotated[bool, typer.Option("--deep", help="Also decode every JPEG.")] = False,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="Shards read at once.")] = 4,
) -> None:
    """Compare every shard with the patch table; exit code 1 when something is missing or damaged.

    Example: `hnm check cohort/ --deep`
    """
    from launch.check import run

    _finish(lambda: run(cohort, deep, workers))


@app.command()
def pretrain(
    cohort: CohortArgument,
    out: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder to write; the result is FOLDER/encoder.safetensors.")
    ],
    overrides: Overrides = None,
    config: ConfigOption = None,
    ranks: RanksOption = 0,
) -> None:
    """Make a first encoder from unlabelled training patches (SimCLR).

    Example: `hnm pretrain cohort/ pretrained/ --config colon --ranks 2`
    """
    from launch import verbs

    _finish(lambda: verbs.pretrain(cohort, out, config, overrides or [], ranks))


@app.command()
def train(
    cohort: CohortArgument,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory to create, or to resume.")],
    overrides: Overrides = None,
    encoder: Annotated[
        Path | None,
        typer.Option(
            help="Start from this encoder (.safetensors, or a ResNet .pth). Without it, pretraining comes first."
        ),
    ] = None,
    config: ConfigOption = None,
    preset: PresetOption = None,
    ranks: RanksOption = 0,
) -> None:
    """Run the rounds: embed, aggregate, score, mine, fine-tune, and again.

    The same command resumes a run that was stopped. Example:
    `hnm train cohort/ run/ --encoder pretrained/encoder.safetensors --config colon --ranks 2`
    """
    from launch import verbs

    _finish(lambda: verbs.train(cohort, run, encoder, config, preset, overrides or [], ranks))


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Finished run directory.")],
    ranks: RanksOption = 0,
    cohort: Annotated[Path | None, typer.Option(help="Where the cohort is now, if it has moved.")] = None,
) -> None:
    """Read the test split, once: metrics.json and predictions.parquet. Choices are made on validation slides.

    Example: `hnm evaluate run/`
    """
    from launch import verbs

    _finish(lambda: verbs.evaluate(run, cohort, ranks))


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write.")] = Path("hnm-demo"),
    ranks: Annotated[int, typer.Option("--ranks", "-n", min=1, help="Processes to train with.")] = 2,
) -> None:
    """See the whole way on a small cohort of drawn slides with known tumour patches (3 minutes on 2 cores)."""
    from launch.demo import run

    _finish(lambda: run(folder, ranks))


cohort_app = typer.Typer(no_args_is_help=True, help="Write slides.csv for a public cohort.")
app.add_typer(cohort_app, name="cohort")
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder to write slides.csv to.")]


@cohort_app.command()
def camelyon16(
    root: Annotated[
        Path, typer.Argument(metavar="ROOT", help="Folder with the slides, in the official layout or flat.")
    ],
    out: OutOption = Path("."),
    test_reference: Annotated[
        Path | None, typer.Option(help="Labels of the test slides (CSV); without it, found below ROOT.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="Folder or .tar.xz of JSON outlines, instead of the XML files below ROOT.")
    ] = None,
    validation_share: Annotated[float, typer.Option(help="Share of the training slides drawn for validation.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of that draw.")] = 0,
) -> None:
    """Camelyon16: slides, outlines, test labels by name, and the official split."""
    from launch import cohort_verbs

    _finish(lambda: cohort_verbs.camelyon16(root, out, test_reference, annotations, validation_share, seed))


@cohort_app.command()
def tcga(
    manifest: Annotated[Path, typer.Option(help="Manifest of the GDC's download tool.")],
    mutations: Annotated[Path, typer.Option(help="Patient and mutated gene, a row each.")],
    gene: Annotated[list[str], typer.Option(help="A label column for this gene; may be given several times.")],
    out: OutOption = Path("."),
    slides: Annotated[
        Path | None, typer.Option(help="Folder of the downloaded slides; default: the manifest's.")
    ] = None,
    all_slides: Annotated[
        bool, typer.Option("--all-slides", help="Frozen sections too, not only diagnostic slides.")
    ] = False,
    folds: Annotated[int, typer.Option(min=3, help="Number of folds: columns split_fold0, split_fold1, ...")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the folds.")] = 0,
) -> None:
    """TCGA: a label column per gene, patient from the barcode, stratified folds by patient."""
    from launch import cohort_verbs

    _finish(lambda: cohort_verbs.tcga(manifest, mutations, gene, out, slides, all_slides, folds, seed))


@app.command()
def doctor() -> None:
    """Print versions, devices, ranks and free disk, and what is missing."""
    from launch.doctor import run

    _finish(run)


def _finish(action) -> None:  # type: ignore[no-untyped-def]
    """Run a verb and end the process with its exit code; what the user can mend is said without a traceback."""
    from hnm.config import ConfigError
    from shards.errors import InputError, UnreadablePatchError

    rank = os.environ.get("RANK", "0")
    prefix = "error: " if rank == "0" else f"error (rank {rank}): "
    try:
        code = action()
    except InputError as error:
        if rank == "0" or isinstance(error, UnreadablePatchError):  # other errors are the same on all ranks
            print(f"{prefix}{error}", file=sys.stderr, flush=True)
        code = 2 if isinstance(error, ConfigError) else 1
    except FloatingPointError as error:
        print(f"{prefix}{error}", file=sys.stderr, flush=True)
        code = 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        code = 130
    raise typer.Exit(code or 0)


def main() -> None:
    """Entry point of the `hnm` script.

    It leaves by os._exit. Once, on a busy machine, a process of a pretraining whose result was written said "terminate called
    without an active exception", a C++ thread's end while the interpreter is taken down; 25 tries did not bring it back, and
    the cause was not found. Nothing is left to do at that point, so that teardown is skipped.
    """
    code = 0
    try:
        app()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
