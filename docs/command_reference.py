"""Every command of `hnm` with its arguments and options, as Markdown, read from the program itself."""

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from launch.cli.main import app

HEADER = "| argument or option | default | what it is |\n|---|---|---|"


def command_reference() -> str:
    """Return a heading, the help text and a table of parameters for each command, in the order of `hnm --help`."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines: list[str] = []
    for name, command in commands.items():
        lines += [f"## hnm {name}\n", text_of(command)]
        if name == "submit":
            lines += of_submit(command.commands, commands)
        elif hasattr(command, "commands"):
            for below, its in command.commands.items():
                lines += [f"### hnm {name} {below}\n", text_of(its), *table(its.params)]
        else:
            lines += table(command.params)
    return "\n".join(lines) + "\n"


def of_submit(submitted: dict[str, Any], local: dict[str, Any]) -> Iterator[str]:
    """Yield the options that all submitted verbs have, once, and of each verb what it has besides the local one's."""
    names = [{parameter.name for parameter in command.params} for command in submitted.values()]
    shared = set.intersection(*names)
    one = submitted["evaluate"].params
    yield from table([p for p in one if p.name in shared and p.name not in {q.name for q in local["evaluate"].params}])
    for name, command in submitted.items():
        known = shared | {parameter.name for parameter in (local[name].params if name in local else [])}
        yield f"### hnm submit {name}\n"
        yield f"What `hnm {name}` takes, and the options above.\n" if name in local else text_of(command)
        yield from table([parameter for parameter in command.params if parameter.name not in known])


def text_of(command: Any) -> str:
    """Return what a command says of itself, as paragraphs."""
    return inspect.cleandoc(command.help or "") + "\n"


def table(parameters: Sequence[Any]) -> Iterator[str]:
    """Yield a table with a row for each parameter, or nothing."""
    rows = [f"| {name_of(p)} | {default_of(p)} | {cell(p.help or '')} |" for p in parameters if p.name != "help"]
    if rows:
        yield HEADER
        yield from rows
        yield ""


def name_of(parameter: Any) -> str:
    """Return the words of a parameter and what stands behind them."""
    if parameter.param_type_name == "argument":
        return f"`{cell(parameter.metavar or parameter.name)}`"
    words = ", ".join(f"`{word}`" for word in [*parameter.opts, *parameter.secondary_opts])
    return words if parameter.is_flag else f"{words} `{cell(parameter.metavar or 'VALUE')}`"


def default_of(parameter: Any) -> str:
    """Return the default as a person would type it; empty where there is none to tell."""
    default = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    if parameter.is_flag if parameter.param_type_name == "option" else False:
        return f"`{parameter.opts[0]}`" if default else ""
    if default is None or callable(default) or default == []:
        return "required" if parameter.required else ""
    return f"`{cell(str(default))}`"


def cell(text: str) -> str:
    """Return text that stays in one cell of a Markdown table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")
