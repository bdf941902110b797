"""What --help says, how fast, and in which order."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from launch.cli.main import PANELS, app
from tests.launch.cli.test_main import hnm


def in_new_process(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


def test_help_answers_without_torch(tmp_path: Path) -> None:
    code = """
import sys
from launch.cli.main import app
try:
    app(["--help"])
except SystemExit as end:
    assert not end.code
heavy = {"torch", "numpy", "pyarrow", "sklearn", "mlflow", "pydantic"} & set(sys.modules)
assert not heavy, heavy
"""
    done = in_new_process(code, tmp_path)
    assert done.returncode == 0, done.stderr
    for verb in ("tile", "pretrain", "train", "evaluate", "report", "predict", "export", "ui", "demo", "doctor"):
        assert verb in done.stdout


def every_command(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield each command below one, with the words that call it."""
    for name, below in command.commands.items():
        if hasattr(below, "commands"):
            yield from every_command(below, f"{path} {name}")
        else:
            yield f"{path} {name}", below


def test_each_command_has_an_example_of_itself() -> None:
    commands = dict(every_command(typer.main.get_command(app), "hnm"))
    assert len(commands) > 30
    assert [path for path, its in commands.items() if not re.search(rf"`{path}[ `]", its.help)] == []


def test_the_version_is_told() -> None:
    result = hnm("--version")
    assert (result.exit_code, result.output.split()[:2]) == (0, ["hnm", metadata.version("hnm")])


def test_a_shell_completes_commands_and_options(tmp_path: Path) -> None:
    asked = {"COMP_WORDS": "hnm train --pre", "COMP_CWORD": "2", "_HNM_COMPLETE": "complete_bash"}
    result = CliRunner().invoke(app, env=asked, prog_name="hnm")
    assert result.output.strip() == "--preset"


def test_commands_stand_in_the_order_of_use() -> None:
    text = hnm("--help").output
    shown = [(panel, *commands) for panel, commands in PANELS.items()]
    assert shown[0] == ("The way", "tile", "check", "pretrain", "train", "evaluate")
    assert shown[1] == ("Look", "status", "report", "view", "compare", "ui")
    places = [text.index(f"─ {panel} ─") for panel, *_ in shown]
    assert places == sorted(places)
    rows = [line for line in text[places[0] :].splitlines() if line.startswith("│ ") and line[2] != " "]
    lines = [line.lstrip("│ ").split(" ")[0] for line in rows]
    assert lines == [command for _, *commands in shown for command in commands]
