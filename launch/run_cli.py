"""`hnm status`: verbs about a run that may be going on elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from launch.options import finish


def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or the folder of hnm pretrain.")],
) -> None:
    """Tell where a run is: phase, step, speed, time left, the last sign of life of every rank, and its attempts.

    It only reads files, so it works from any machine that sees the folder. Exit code 1: the run failed, or gives no sign
    of life. Example: `hnm status run/`
    """
    from launch.status import print_status

    finish(lambda: print_status(run))
