"""`hnm config`: settings with their sources, of a command and of a run; and the reference."""

from pathlib import Path

import pytest

from hnm.config import Config
from hnm.settings_reference import fields_of, settings_reference
from tests.launch.cli.test_main import assert_refused, hnm


def told(*arguments: str | Path) -> dict[str, list[str]]:
    result = hnm("config", *arguments)
    assert result.exit_code == 0, result.output
    words = [line.split(maxsplit=2) for line in result.stdout.splitlines()]
    return {key: rest for key, *rest in words}


def test_every_setting_of_a_command(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("preset: its2clr\nfinetune: {lr: 0.25}\n")
    lines = told("--config", mine, "mining.ties=keep")
    assert list(lines) == [key for key, _ in fields_of(Config)]
    assert lines["finetune.lr"] == ["0.25", f"config {mine}"]
    assert lines["mining.neg_ratio"] == ["1.0", "preset its2clr"]
    assert lines["mining.ties"] == ["keep", "command line"]
    assert lines["tile.mpp"] == ["null", "default"]


def test_only_what_is_not_the_default() -> None:
    lines = told("--changed", "seed=0", "mining.ties=keep")
    assert lines.pop("mining.ties") == ["keep", "command line"]
    counted = lines.popitem()[1]
    assert "others have their defaults" in " ".join(counted)
    assert lines
    assert {source for _, source in lines.values()} == {"preset hnm"}  # the method, where no preset is named


def test_of_a_run_what_it_has_on_record(finished_run: Path) -> None:
    lines = told(finished_run)
    assert lines["encoder.width"] == ["0.125", f"recorded in {finished_run / 'config.yaml'}"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["mining.neg_ration=1"], "Did you mean 'neg_ratio'?"),
        (["nowhere"], "nowhere: no run directory and no exported model"),
        (["nowhere", "--preset", "hnm"], "a run has its settings on record"),
    ],
)
def test_misuse(arguments: list[str], part: str) -> None:
    assert_refused(hnm("config", *arguments), 2, part)


def test_the_reference_is_printed() -> None:
    assert hnm("config", "--doc").stdout == settings_reference()
