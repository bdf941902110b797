"""The names that users type: a setting or an option that is renamed or removed breaks their files and scripts.

names.txt holds them all. When one was added on purpose: `python -m tests.launch.cli.test_names` writes the file anew.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from hnm.config import Config, list_names
from hnm.installed import config_folder
from hnm.settings_reference import fields_of
from hnm.slurm_config import JobConfig
from launch.cli.main import app

FILE = Path(__file__).with_name("names.txt")


def names() -> list[str]:
    """Return the sorted names: settings, presets, configs, and the commands with their arguments and options."""
    settings = [f"setting {key}" for key, _ in fields_of(Config)]
    settings += [f"setting slurm.stages.STAGE.{name}" for name in JobConfig.model_fields]
    presets = [f"preset {name}" for name in list_names(config_folder() / "presets")]
    configs = [f"config {name}" for name in list_names(config_folder())]
    return sorted({*settings, *presets, *configs, *_of_command(typer.main.get_command(app), "hnm")})


def _of_command(command: Any, path: str) -> Iterator[str]:
    for parameter in command.params:
        for option in (*parameter.opts, *parameter.secondary_opts):
            what = "argument" if parameter.param_type_name == "argument" else "option"
            yield f"{path} {what} {option}"
    for name, below in getattr(command, "commands", {}).items():
        yield f"{path} {name}"
        yield from _of_command(below, f"{path} {name}")


def test_names_that_users_type_stay() -> None:
    frozen, found = set(FILE.read_text(encoding="utf-8").splitlines()), set(names())
    gone, new = sorted(frozen - found), sorted(found - frozen)
    assert not gone, f"renamed or removed, which breaks what users have written: {gone} (new: {new})"
    assert not new, f"added: {new}. If that is what you want: python -m tests.launch.cli.test_names"


if __name__ == "__main__":
    FILE.write_text("\n".join(names()) + "\n", encoding="utf-8")
