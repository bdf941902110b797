"""`hnm compare`, `hnm crossval`: what these verbs accept; what they do is in launch/compare.py and launch/crossval.py."""

from pathlib import Path
from typing import Annotated

import typer

from launch.options import CohortArgument, ConfigOption, MovedCohort, Overrides, PresetOption, RanksOption, finish

evidence_app = typer.Typer()


@evidence_app.command()
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
    from launch.compare import run

    finish(lambda: run(run_a, run_b, json_file, cohort))


@evidence_app.command()
def crossval(
    cohort: CohortArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write, or to resume.")],
    overrides: Overrides = None,
    folds: Annotated[int, typer.Option("--folds", "-k", help="Folds, stratified, by patient; at least 3.")] = 5,
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
    from launch.crossval import run
    from launch.crossval_folder import Request

    request = Request(
        cohort, out, folds, repeats, share, config, preset, overrides or [], encoder, encoders_of, ranks, reports
    )
    finish(lambda: run(request))
