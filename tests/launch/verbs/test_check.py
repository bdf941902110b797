"""`hnm check`: a table, the damaged shards by name, and an exit code for scripts."""

import shutil
from pathlib import Path

from typer.testing import CliRunner, Result

from launch.cli.main import app
from shards.cohort.cohort import Cohort


def hnm_check(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_a_sound_cohort_ends_with_0(tiny_cohort: Path) -> None:
    result = hnm_check(tiny_cohort, "--deep", "--workers", "2")
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "sound, every JPEG decoded" in text
    assert "160" in text
    assert "--deep does that too" in hnm_check(tiny_cohort).output


def test_damage_is_named_and_ends_with_1(tiny_cohort: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    shutil.copytree(tiny_cohort, cohort)
    opened = Cohort.open(cohort)
    opened.shard_path(0).unlink()
    with open(opened.shard_path(1), "rb+") as file:
        file.truncate(1500)
    result = hnm_check(cohort)
    assert result.exit_code == 1
    assert f"{opened.info['shards'][0]}: 16 of 16 patches damaged" in result.output
    assert "the shard is missing" in result.output
    assert "cut short" in result.output
    assert "run hnm tile again" in result.output


def test_no_cohort_is_an_error(tmp_path: Path) -> None:
    result = hnm_check(tmp_path)
    assert result.exit_code == 1
    assert "cohort.json is missing" in result.stderr
