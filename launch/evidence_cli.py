"""`hnm compare`, `hnm crossval`: what these verbs accept; what they do is in launch/compare.py and launch/crossval.py."""

from pathlib import Path
from typing import Annotated

import typer

from launch.options import finish

evidence_app = typer.Typer()


@evidence_app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="Evaluated run directory.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another, tested on the same slides.")],
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures here.")] = None,
) -> None:
    """Two runs on the same test slides: figures with intervals, their differences, DeLong's test of the AUCs.

    Example: `hnm compare run-its2clr/ run-hnm/`
    """
    from launch.compare import run

    finish(lambda: run(run_a, run_b, json_file))
