"""`hnm evaluate`'s neighbours: compare, crossval, status, report, view, ui: what they accept; launch/verbs/ does it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from launch.cli.options import CohortArgument, ConfigOption, MovedCohort, Overrides, PresetOption, RanksOption, finish

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or folder of hnm crossval or study.")]


def compare(
    run_a: Annotated[Path, typer.Argument(metavar="A", help="Evaluated run directory, or folder of a finished hnm crossval.")],
    run_b: Annotated[Path, typer.Argument(metavar="B", help="Another, tested on the same slides, or with the same folds.")],
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures here.")] = None,
    cohort: MovedCohort = None,
) -> None:
    """Two runs on the same test slides, or two cross-validations: figures with 95 % intervals, and their differences.

    Of two runs, the intervals are over resampled patients, the same for both, and DeLong's test is made of the slide AUCs; the
    patch figures need the runs' cohort, where it was or where --cohort says. Of two cross-validations, the difference is taken
    fold by fold, its interval is corrected for the training slides that folds share, and the AUC of all out-of-fold
    predictions is compared over resampled patients. Example: `hnm compare run-its2clr/ run-hnm/`
    """
    from launch.verbs.compare import run

    finish(lambda: run(run_a, run_b, json_file, cohort))


def crossval(
    cohort: CohortArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write, or to resume.")],
    overrides: Overrides = None,
    folds: Annotated[int, typer.Option("--folds", "-k", help="Folds, stratified, by patient (see data.split_by); from 3.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Draw the folds so many times, each with its own seed.")] = 1,
    share: Annotated[
        str | None,
        typer.Option("--fold", metavar="I/N", help="Do only every N-th fold, from the I-th on (1 to N): array jobs."),
    ] = None,
    encoder: Annotated[
        Path | None, typer.Option(help="Start every fold from this encoder, which must not have seen the cohort.")
    ] = None,
    encoders_of: Annotated[
        Path | None,
        typer.Option(metavar="OTHER", help="Start each fold from the encoder that OTHER, a crossval folder, pretrained."),
    ] = None,
    reports: Annotated[
        bool, typer.Option("--reports", help="Also write each fold's own report.html, with heatmaps of its test slides.")
    ] = False,
    config: ConfigOption = None,
    preset: PresetOption = None,
    ranks: RanksOption = 0,
) -> None:
    """Cross-validate the whole way, pretraining included: a run directory per fold, mean and interval, report.html, leak checks.

    The same command goes on where it stopped. Asked to stop (Ctrl-C, TERM, USR2), the fold at work is saved, no other begins,
    and it ends with exit code 75. Example: `hnm crossval cohort/ cv/ --folds 5 --config colon`
    """
    from launch.verbs.crossval import run
    from launch.verbs.crossval_folder import Request

    request = Request(
        cohort, out, folds, repeats, share, config, preset, overrides or [], encoder, encoders_of, ranks, reports
    )
    finish(lambda: run(request))


def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or folder of hnm pretrain, crossval or study.")],
) -> None:
    """Tell where a run is: phase, step, speed, time left, the last sign of life of every rank, and its attempts.

    Of a cross-validation or a study, where each fold is. Of what was submitted also what SLURM says: queued and why,
    running, requeued, failed and on which rank. All is read from files and from SLURM. Exit code 1: it failed, or gives no
    sign of life. Example: `hnm status run/`
    """
    from launch.cluster.follow import print_status

    finish(lambda: print_status(run))


def report(
    run: RunArgument,
    cohort: MovedCohort = None,
    heatmaps: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Most slides to draw a heatmap of, test slides first.", show_default="200"),
    ] = None,
) -> None:
    """Write RUN/report.html, one page to look at, and its pictures in RUN/figures/; finished run or not.

    Of a folder of `hnm crossval` it is the page of all folds, of one of `hnm study` its page; they ask for no option.
    Example: `hnm report run/`
    """
    if (run / "crossval.json").is_file():
        from launch.verbs.crossval_page import report_crossval

        finish(lambda: report_crossval(run))
    if (run / "plan.json").is_file():
        from launch.verbs.study_page import report_study

        finish(lambda: report_study(run))
    from launch.verbs import report as report_verbs

    finish(lambda: report_verbs.report(run, cohort, heatmaps))


def ui(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or any folder with an mlflow.db.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 = 5000, or a free one.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Call the server or database that the run's config.yaml names.")] = False,
) -> None:
    """Look at a run in MLflow: serves its database on this machine only, until Ctrl-C; a run on a server is linked.

    A server that is not in your own configuration is called only when you say so: a stranger may have named it.
    Example: `hnm ui run/`
    """
    from launch.verbs.ui import serve

    def ask(question: str) -> bool:
        return sys.stdin.isatty() and typer.confirm(question)

    finish(lambda: serve(run, port, yes, ask))


def view(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, finished or not.")],
    slides: Annotated[list[str] | None, typer.Argument(metavar="[SLIDE]...", help="Names of slides; none: all of them.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Write a folder that opens from a disk; else, a server.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 = 5010, or a free one.")] = 0,
    cohort: MovedCohort = None,
) -> None:
    """Walk through slides: scores over the tissue, and which negatives each round takes for positive.

    The list beside a slide has its hardest negatives of each round, and whether the next round still takes them for positive.
    Served on this machine only, until Ctrl-C; with --out in a folder, of 20 slides unless they are named, wrong ones first.
    Example: `hnm view run/ slide-007`
    """
    from launch.verbs import view as verb

    finish(lambda: verb.view(run, slides or [], out, port, cohort))
