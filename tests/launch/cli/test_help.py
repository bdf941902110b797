"""What --help says, how fast, and in which order."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli.main import PANELS
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


@pytest.mark.parametrize("verb", ["tile", "pretrain", "train", "evaluate", "report", "predict", "export", "ui", "demo", "doctor"])
def test_each_verb_explains_itself(verb: str) -> None:
    result = hnm(verb, "--help")
    assert result.exit_code == 0
    if verb not in ("demo", "doctor"):
        assert f"hnm {verb} " in result.output  # an example


def test_commands_stand_in_the_order_of_use() -> None:
    text = hnm("--help").output
    shown = [(panel, *commands) for panel, commands in PANELS.items()]
    assert shown[0] == ("The way", "tile", "check", "pretrain", "train", "evaluate")
    assert shown[1] == ("Look", "status", "report", "compare", "ui")
    places = [text.index(f"─ {panel} ─") for panel, *_ in shown]
    assert places == sorted(places)
    rows = [line for line in text[places[0] :].splitlines() if line.startswith("│ ") and line[2] != " "]
    lines = [line.lstrip("│ ").split(" ")[0] for line in rows]
    assert lines == [command for _, *commands in shown for command in commands]
