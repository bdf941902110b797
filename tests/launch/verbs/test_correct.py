"""`hnm cohort correct`: from QuPath's files to a run that knows them, and a report that counts them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hnm.mining.coordinator import load_mined
from launch.cli.main import app
from launch.verbs import train as verbs
from shards.cohort.cohort import Cohort
from shards.cohort.corrections import read_corrections
from tests.shards.tiling.test_corrected import region, write_regions
from tests.tiny import TINY


@pytest.fixture
def cohort(tiny_cohort: Path, tmp_path: Path) -> Path:
    """A copy of the tiny cohort; its pictures are linked."""
    folder = tmp_path / "cohort"
    shutil.copytree(tiny_cohort, folder, ignore=shutil.ignore_patterns("shards"))
    (folder / "shards").symlink_to(tiny_cohort / "shards")
    return folder


def correct(*words: object, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, ["cohort", "correct", *map(str, words)])
    assert result.exit_code == exit_code, result.output
    return result.output


@pytest.mark.slow
def test_the_round_trip(cohort: Path, finished_run: Path, tmp_path: Path) -> None:
    opened = Cohort.open(cohort)
    train = opened.splits() == "train"
    slide = int(np.flatnonzero(train & (opened.labels() == 1))[0])
    test = int(np.flatnonzero(opened.splits() == "test")[0])
    fingerprint, names = opened.fingerprint, opened.slide_ids
    one = write_regions(tmp_path / f"{names[slide]}.geojson", region("Normal", 0, 0, 32, 16), region("Tumor", 32, 0, 48, 16))
    other = write_regions(tmp_path / f"{names[test]}.geojson", region("Normal", 0, 0, 64, 64), region("Stroma", 0, 0, 9, 9))
    said = correct(cohort, one, other)
    assert f"slide {names[slide]}: 2 patches known to be negative, 1 known to be positive" in said
    assert "ignored: 1 of class 'Stroma'" in said
    assert "18 known negatives, 1 known positives" in said
    assert "16 of them are not of training slides and change nothing" in said
    assert Cohort.open(cohort).fingerprint == fingerprint  # runs of before are read as ever
    run = tmp_path / "run"
    encoder = finished_run / "encoder-start.safetensors"
    assert verbs.train(cohort, run, encoder, None, "hnm", [*TINY, "rounds.num_rounds=0"], ranks=1) == 0
    known, mined = read_corrections(cohort, fingerprint), load_mined(run / "round-000")
    own = known.ids // 16 == slide
    assert set(known.ids[own & (known.labels == 0)]) <= set(mined.negatives)
    assert set(known.ids[own & (known.labels == 1)]) <= set(mined.candidates)
    told = json.loads((run / "round-000" / "mining.json").read_text())["corrections"]
    assert (told["known_negatives"], told["known_negatives_of_positive_slides"], told["known_positives"]) == (2, 2, 1)
    assert "2 known negatives (2 of positive slides), 1 known positives" in (run / "log" / "rank-000.log").read_text()
    assert CliRunner().invoke(app, ["report", str(run)]).exit_code == 0
    assert "as the last round knew it: 2 known negatives" in " ".join((run / "report.html").read_text().split())
    assert "0 known negatives, 0 known positives" in correct(cohort, "--clear")
    assert not (cohort / "corrections.parquet").exists()


def test_what_is_wrong_is_refused_and_nothing_is_written(cohort: Path, tmp_path: Path) -> None:
    name = Cohort.open(cohort).slide_ids[0]
    good = write_regions(tmp_path / f"{name}.geojson", region("Benign", 0, 0, 64, 64))
    assert "no file of corrections is named" in correct(cohort, exit_code=1)
    assert "no slide of" in correct(cohort, good, tmp_path / "stranger.geojson", exit_code=1)
    assert "both name 'normal'" in correct(cohort, good, "--positive", "NORMAL", exit_code=1)
    assert not (cohort / "corrections.parquet").exists()
    assert "16 patches known to be negative" in correct(cohort, good, "--negative", "benign")
    (tmp_path / "aside").mkdir()
    name = Cohort.open(cohort).slide_ids[Cohort.open(cohort).labels() == 0][0]
    tumour = write_regions(tmp_path / "aside" / f"{name}.geojson", region("Tumor", 0, 0, 64, 64))
    assert "warning: its label is 0, but something on it is positive" in correct(cohort, tumour)
