"""`hnm config`, `hnm suggest`: what these verbs accept; what they do is in launch/verbs/."""

from pathlib import Path
from typing import Annotated

import typer

from launch.cli.options import ConfigOption, PresetOption, finish


def config(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN] [SECTION.KEY=VALUE]...", help="Run directory or exported model; settings as of a command."),
    ] = None,
    config_name: ConfigOption = None,
    preset: PresetOption = None,
    changed: Annotated[bool, typer.Option("--changed", help="Leave out what has its default.")] = False,
    doc: Annotated[bool, typer.Option("--doc", help="Print the reference of all settings as Markdown.")] = False,
) -> None:
    """Print every setting, its value and where that came from: of a command with these options, or of a run.

    Example: `hnm config --config colon mining.neg_ratio=0.05`, or `hnm config run/ --changed`
    """
    from launch.verbs import settings as verb

    finish(lambda: verb.print_reference() if doc else verb.print_settings(words or [], config_name, preset, changed))


def suggest(
    slides_csv: Annotated[Path, typer.Argument(metavar="SLIDES.CSV", help="The table of `hnm tile`; labels may be missing.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write it here, not to the screen.")] = None,
) -> None:
    """Print a configuration to begin with, each value with its reason: from the table, some headers, and this machine.

    It is a file for --config, and a start, not a result. Example: `hnm suggest slides.csv --out first.yaml`
    """
    from launch.verbs.suggest import run

    finish(lambda: run(slides_csv, out))


def version(is_asked: bool) -> None:
    """Print which hnm this is, and end."""
    if is_asked:
        from importlib import metadata

        from hnm.installed import commit_of_code

        commit = commit_of_code()
        print(f"hnm {metadata.version('hnm')}{f' ({commit})' if commit else ''}")
        raise typer.Exit()


def top(
    is_asked: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version, and the commit of a checkout.")
    ] = False,
) -> None:
    """What `hnm` itself accepts, before a command."""
