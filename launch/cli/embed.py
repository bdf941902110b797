"""`hnm embed`: what this verb accepts; what it does is in launch/verbs/embed.py."""

from pathlib import Path
from typing import Annotated, Any

import typer

from launch.cli.options import CohortArgument, ConfigOption, Overrides, RanksOption, file_or_name, finish, run_in_ranks


def embed(
    cohort: CohortArgument,
    encoder: Annotated[
        Any,
        typer.Option(
            parser=file_or_name,
            metavar="FILE|MODEL|NAME",
            help="A file of weights, a folder that hnm export wrote, or a name (hnm encoder list).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder to write.")],
    overrides: Overrides = None,
    config: ConfigOption = None,
    shard_of: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Embed only every N-th slide, from the I-th on (1 to N): array jobs."),
    ] = None,
    ranks: RanksOption = 0,
) -> None:
    """Write the features of every slide for other tools: an HDF5 file per slide in TRIDENT's layout.

    Run it again to do only what is missing. Example: `hnm embed cohort/ --encoder model/ --out features/`
    """
    run_in_ranks(ranks)
    from launch.verbs import embed as verbs

    finish(lambda: verbs.embed(verbs.EmbedRequest(cohort, str(encoder), out, config, overrides or [], shard_of, ranks)))
