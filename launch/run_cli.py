"""`hnm status`: verbs about a run that may be going on elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from launch.options import finish


def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or the folder of hnm pretrain or hnm crossval.")],
) -> None:
    """Tell where a run is: phase, step, speed, time left, the last sign of life of every rank, and its attempts.

    Of a cross-validation, where each fold is. Of what was submitted also what SLURM says: queued and why, running, requeued,
    failed and on which rank. All is read from files and from SLURM. Exit code 1: it failed, or gives no sign of life. Example:
    `hnm status run/`
    """
    from launch.follow import print_status

    finish(lambda: print_status(run))
