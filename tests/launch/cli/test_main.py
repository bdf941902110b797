"""The command line as a user meets it: help, exit codes (0 done, 1 failed, 2 misuse), and a wrong configuration."""

from pathlib import Path

import pytest

from tests.command_line import assert_refused, hnm
from tests.tiny import TINY


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
