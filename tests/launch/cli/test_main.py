"""The command line as a user meets it: help, exit codes (0 done, 1 failed, 2 misuse), and a wrong configuration."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import assert_refused, hnm
from tests.tiny import TINY


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


@pytest.mark.parametrize(
    "arguments",
    [
        ["trian"],
        ["train"],
        ["train", "cohort"],
        ["train", "a", "b", "--ranks", "many"],
        ["train", "a", "b", "--rank", "2"],
    ],
)
def test_misuse_ends_with_2(arguments: list[str]) -> None:
    result = hnm(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


@pytest.mark.parametrize("verb", ["tile", "pretrain", "train"])
@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("minning.neg_ratio=0.1", ("unknown key minning", "Did you mean 'mining'?")),
        ("mining.neg_ratio=7", ("mining.neg_ratio = 7", "less than or equal to 1")),
        ("--config=colonn", ("--config colonn", "Did you mean 'colon'?")),
    ],
)
def test_a_wrong_configuration_is_misuse(
    tiny_cohort: Path, tmp_path: Path, verb: str, override: str, parts: tuple[str, ...]
) -> None:
    first = tmp_path / "slides.csv" if verb == "tile" else tiny_cohort
    assert_refused(hnm(verb, first, tmp_path / "out", override), 2, "error: ", *parts)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_preset_is_misuse(tiny_cohort: Path, tmp_path: Path) -> None:
    result = hnm("train", tiny_cohort, tmp_path / "run", "--preset", "its2cl", *TINY)
    assert_refused(result, 2, "--preset its2cl", "Did you mean 'its2clr'?", "hnm-paper")
    assert not (tmp_path / "run").exists()
