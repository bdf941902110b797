"""`hnm import ...`: what these verbs accept; what they do is in launch/verbs/imports.py."""

from pathlib import Path
from typing import Annotated

import typer

from launch.cli.options import ConfigOption, Overrides, finish

import_app = typer.Typer(no_args_is_help=True, help="Make a cohort from what another tool has written.")
TableArgument = Annotated[Path, typer.Argument(metavar="SLIDES.CSV", help="The table of slides, as for `hnm tile`.")]
OutArgument = Annotated[Path, typer.Argument(metavar="COHORT", help="Folder to write.")]


@import_app.command()
def coords(
    slides_csv: TableArgument,
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="A file for each slide: HDF5 of TRIDENT, CLAM or AtlasPatch, npz of hs2p."
        ),
    ],
    cohort: OutArgument,
    overrides: Overrides = None,
    config: ConfigOption = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 = one per core.")] = 0,
    shard_of: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Cut only every N-th slide, from the I-th on (1 to N): array jobs."),
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Cut nothing; put together what array jobs have cut.")] = False,
    preview: Annotated[int, typer.Option(min=0, metavar="N", help="Only draw what would be cut of N slides.")] = 0,
) -> None:
    """Cut just the patches whose coordinates another tool has written; what does not fit its slide is refused.

    Run it again to do only what is missing. Example: `hnm import coords slides.csv trident/20x_256px_0px_overlap/ cohort/`
    """
    from launch.verbs import imports
    from launch.verbs.tile import TileRequest

    request = TileRequest(slides_csv, cohort, config, overrides or [], workers, shard_of, merge, preview)
    finish(lambda: imports.coords(request, folder))


@import_app.command()
def features(
    slides_csv: Annotated[
        Path, typer.Argument(metavar="SLIDES.CSV", help="The table of slides, as for `hnm tile`; path may be missing.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A file for each slide: HDF5, .pt or .npy.")],
    cohort: OutArgument,
    overrides: Overrides = None,
    config: ConfigOption = None,
    name: Annotated[str | None, typer.Option(help="Which features, where a file holds several.")] = None,
) -> None:
    """Make a cohort without pictures of features that another tool has computed, to train aggregators on.

    Example: `hnm import features slides.csv features_uni_v1/ cohort/`, then `hnm train cohort/ run/ rounds.num_rounds=0`
    """
    from launch.verbs import imports

    finish(lambda: imports.features(slides_csv, folder, cohort, name, config, overrides or []))


@import_app.command()
def tiles(
    slides_csv: Annotated[
        Path, typer.Argument(metavar="SLIDES.CSV", help="The table of slides, as for `hnm tile`; path may be missing.")
    ],
    source: Annotated[
        Path, typer.Argument(metavar="FOLDER|PARQUET", help="Pictures of patches, or Parquet that holds them.")
    ],
    cohort: OutArgument,
    overrides: Overrides = None,
    config: ConfigOption = None,
    table: Annotated[Path | None, typer.Option(help="Of a folder: CSV with file,slide,x,y[,truth].")] = None,
    pattern: Annotated[
        str | None, typer.Option(help="Of a folder: regular expression for file names, groups slide, x, y[, truth].")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 = one per core.")] = 0,
) -> None:
    """Make a cohort of patches that are cut already: a folder of pictures, or Parquet.

    Run it again to do only what is missing. Example: `hnm import tiles slides.csv patches/ cohort/ --table patches.csv`
    """
    from launch.verbs import imports
    from launch.verbs.tile import TileRequest

    request = TileRequest(slides_csv, cohort, config, overrides or [], workers)
    finish(lambda: imports.tiles(source, request, table, pattern))
