"""`hnm report`, `hnm ui`: what these verbs accept; what they do is in launch/report_verbs.py."""

from pathlib import Path
from typing import Annotated

import typer

from launch.options import MovedCohort, finish

report_app = typer.Typer()
MAX_HEATMAPS = 200

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or folder of hnm crossval.")]


@report_app.command()
def report(
    run: RunArgument,
    cohort: MovedCohort = None,
    heatmaps: Annotated[
        int, typer.Option(min=0, metavar="N", help="Most slides to draw a heatmap of, test slides first.")
    ] = MAX_HEATMAPS,
) -> None:
    """Write RUN/report.html, one page to look at, and its pictures in RUN/figures/; finished run or not.

    Of a folder of `hnm crossval` it is the page of all folds, which asks for no option. Example: `hnm report run/`
    """
    if (run / "crossval.json").is_file():
        from launch.crossval_page import report_crossval

        finish(lambda: report_crossval(run))
    from launch import report_verbs

    finish(lambda: report_verbs.report(run, cohort, heatmaps))


@report_app.command()
def ui(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or any folder with an mlflow.db.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 = 5000, or a free one.")] = 0,
) -> None:
    """Look at a run in MLflow: serves its database on this machine only, until Ctrl-C; a run on a server is linked.

    Example: `hnm ui run/`
    """
    from launch.ui import serve

    finish(lambda: serve(run, port))
