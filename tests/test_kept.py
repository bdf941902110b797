"""A cohort and a run that the code of e4d40bc made are read by today's, and give the figures that they gave then.

See tests/kept/README.md. Scores may differ in the sixth digit, for another CPU rounds in another way; counts, words and
thresholded figures may not.
"""

import json
import tarfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hnm.config import difference, read_config
from launch.process.status import read_status
from tests.command_line import hnm
from tests.paths import ROOT
from tests.tiny import TINY, results_of

SETTINGS = [*TINY, "encoder.width=0.03125", "rounds.num_rounds=1"]


def in_one_line(text: str) -> str:
    return " ".join(text.split())


def assert_same(found: Any, kept: Any, where: str = "") -> None:
    """Assert that all that was kept is found again; what has come to it since does not matter."""
    if isinstance(kept, dict):
        for key, value in kept.items():
            if key != "seconds":
                assert key in found, f"{where}.{key}"
                assert_same(found[key], value, f"{where}.{key}")
    elif isinstance(kept, list):
        assert len(found) == len(kept), where
        for number, value in enumerate(kept):
            assert_same(found[number], value, f"{where}[{number}]")
    elif isinstance(kept, float):
        assert found == pytest.approx(kept, rel=1e-5), where
    else:
        assert found == kept, where


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    with tarfile.open(ROOT / "tests" / "kept" / "e4d40bc.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def figures(kept: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((kept / "figures.json").read_text())
    return content


def assert_told(kept: Path, figures: dict[str, Any], moment: int) -> None:
    """Assert that `hnm status` says of the run what it said then: 0 before the evaluation, 1 after it."""
    assert read_status(kept / "run", time.time()).word == figures["status"][moment]
    told = hnm("status", kept / "run")
    assert told.exit_code == 0
    assert figures["says"][moment].replace("RUN", str(kept / "run")) in in_one_line(told.output)


@pytest.fixture(scope="module")
def evaluated(kept: Path, figures: dict[str, Any]) -> Path:
    """The run, trained once more by the command that made it (nothing is to do), and evaluated with its moved cohort."""
    run = kept / "run"
    assert_told(kept, figures, 0)
    before, config = results_of(run), read_config(run / "config.yaml")
    again = hnm("train", kept / "cohort", run, "--preset", "hnm", "--ranks", "1", *SETTINGS)
    assert again.exit_code == 0, again.output
    after = results_of(run)
    assert after.keys() == before.keys()  # what it has seen of the slides was not kept then, and is not made up now
    assert {name for name in before if after[name] != before[name]} <= {"config.yaml"}
    changed = difference(config, read_config(run / "config.yaml"))
    assert [line for line in changed if not line.startswith("tile.")] == []  # which a training does not look at
    done = hnm("evaluate", run, "--cohort", kept / "cohort", "--ranks", "1", "--no-report")
    assert done.exit_code == 0, done.output
    return run


def test_the_cohort_is_sound(kept: Path, figures: dict[str, Any]) -> None:
    checked = hnm("check", kept / "cohort")
    assert checked.exit_code == 0, checked.output
    assert f"{kept / 'cohort'}: sound" in in_one_line(checked.output)
    words = in_one_line(checked.output)
    assert len(figures["check"]) == 3
    for what, number in figures["check"].items():
        assert f"│ {what} │ {number} │ 0 │" in words


def test_its_evaluation_gives_the_figures_of_then(evaluated: Path, kept: Path, figures: dict[str, Any]) -> None:
    assert_same(json.loads((evaluated / "metrics.json").read_text()), figures["metrics"], "metrics.json")
    assert_same(pq.read_table(evaluated / "predictions.parquet").to_pylist(), figures["predictions"], "predictions.parquet")
    assert_told(kept, figures, 1)


def test_its_model_predicts_as_then(evaluated: Path, kept: Path, figures: dict[str, Any], tmp_path: Path) -> None:
    images = sorted((kept / "slides").glob("*.png"))
    done = hnm("predict", evaluated, *images, "--out", tmp_path, "--device", "cpu", "--cohort", kept / "cohort")
    assert done.exit_code == 0, done.output
    rows = pq.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert_same([{**row, "path": Path(row["path"]).name} for row in rows], figures["predict"], "predict")


def test_its_report_is_made(evaluated: Path, kept: Path, figures: dict[str, Any]) -> None:
    done = hnm("report", evaluated, "--cohort", kept / "cohort")
    assert done.exit_code == 0, done.output
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    assert {row["slide_id"] for row in figures["predictions"] if row["slide_id"] in page} >= {"slide-001", "slide-004"}
    assert f"{figures['metrics']['slide']['brier']:.3f}" in page
