"""`hnm config`: what this verb accepts; what it does is in launch/verbs/settings.py."""

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
