"""`hnm validate` as a user meets it: a cohort, a table, the page, MLflow, what is left out, what is refused."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from sklearn.metrics import roc_auc_score

from hnm.config import load_config
from shards.drawn.synthetic import make_cohort_images
from shards.tiling.tile import tile_cohort
from tests.chromium import needs_chromium, open_page
from tests.command_line import assert_refused, hnm
from tests.pages import require_fits, require_self_contained
from tests.tiny import TILE

NUM = 72
QUIET = ("tracking.enabled=false", "--device", "cpu")


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """slides.csv of other patients at three sites: two slides each, a third of them positive."""
    slides_csv = make_cohort_images(tmp_path_factory.mktemp("away"), NUM, 2, 16, seed=9, num_sites=3)
    rows = [row for number, row in enumerate(rows_of(slides_csv)) if row["label"] == "0" or number % 4 == 1]
    for number, row in enumerate(rows):
        row |= {"slide_id": row["slide_id"].replace("slide", "away"), "patient_id": f"away-{number // 4}-{row['label']}"}
        del row["split"]
    write_rows(slides_csv, rows)
    points = slides_csv.with_name("points.csv")
    points.write_text(points.read_text().replace("slide-", "away-"))
    return slides_csv


@pytest.fixture(scope="module")
def cohort(table: Path) -> Path:
    """Those slides, cut as the model's were."""
    folder = table.parent / "cohort"
    tile_cohort(table, folder, load_config(overrides=TILE).tile)
    return folder


@pytest.fixture(scope="module")
def validated(evaluated_run: Path, cohort: Path, table: Path) -> Path:
    """What the verb makes of the cohort, with all that one may ask for."""
    out = table.parent / "out"
    asked = ("--by", "site", "--slides-csv", table, "--recalibrate", "isotonic", "--part", "0.5", "--alpha", "0.4")
    result = hnm("validate", evaluated_run / "model", cohort, "--out", out, *asked, *QUIET)
    assert result.exit_code == 0, result.output
    assert "frozen threshold: " in result.output
    return out


def json_of(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "validation.json").read_text())
    return content


def test_its_figures_are_of_the_slides_that_stand_beside(validated: Path, evaluated_run: Path, cohort: Path) -> None:
    found, rows = json_of(validated), pq.read_table(validated / "predictions.parquet").to_pylist()
    labels, scores = [row["label"] for row in rows], [row["score"] for row in rows]
    assert found["frozen"]["figures"]["auc"] == pytest.approx(roc_auc_score(labels, scores))
    about = json.loads((evaluated_run / "model" / "model.json").read_text())
    assert found["threshold"] == about["slide_threshold"]
    assert found["promised"]["figures"]["auc"] == about["test"]["slide"]["auc"]
    groups = found["subgroups"]["site"]
    assert [group["value"] for group in groups] == ["site-0", "site-1", "site-2"]
    assert sum(group["slides"] for group in groups) == found["slides"]["measured"] == len(rows) == 54
    assert len(found["drift"]["colours"]) == 8
    patients = pq.read_table(validated / "patients.parquet").to_pylist()
    assert found["by_patient"]["slides"] == len(patients) < len(rows)
    assert sum(row["num_slides"] for row in patients) == len(rows)
    stamps = {path: path.stat().st_mtime_ns for path in (validated / "patches").iterdir()}
    again = hnm("validate", evaluated_run / "model", cohort, "--out", validated, *QUIET)
    assert again.exit_code == 0, again.output
    assert {path: path.stat().st_mtime_ns for path in (validated / "patches").iterdir()} == stamps  # nothing is scored again
    assert json_of(validated)["frozen"]["figures"] == found["frozen"]["figures"]


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_is_whole_and_fits(validated: Path, width: int) -> None:
    found = require_self_contained(validated / "validation.html")
    assert "The frozen threshold" in found.text
    with open_page(validated / "validation.html", width) as page:
        require_fits(page, width, num_images=len(found.images))
        assert page.problems == []


def test_of_its_own_cohort_only_the_test_split_is_measured_and_mlflow_gets_it(
    evaluated_run: Path, tiny_cohort: Path, tracking_database: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(tracking_database, out / "mlflow.db")
    result = hnm("validate", evaluated_run, tiny_cohort, "--out", out, "--device", "cpu")  # the run itself
    assert result.exit_code == 0, result.output
    found, (negative, positive) = json_of(out), pq.read_table(out / "predictions.parquet").to_pylist()
    assert found["slides"]["seen"] == {"the model was trained on it": 6, "the model was chosen by it": 2}
    assert "6 slides are in no figure: the model was trained on it" in found["warnings"]
    then = {row["slide_id"]: row["score"] for row in pq.read_table(evaluated_run / "predictions.parquet").to_pylist()}
    for row in (negative, positive):
        assert row["score"] == pytest.approx(then[row["slide_id"]], abs=1e-3)
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    (run,) = client.search_runs([its.experiment_id for its in client.search_experiments()])
    assert run.data.metrics["validation/frozen_figures_auc"] == found["frozen"]["figures"]["auc"]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"validation.json", "validation.html"}


def test_what_predict_has_scored_is_not_scored_again(evaluated_run: Path, table: Path, tmp_path: Path) -> None:
    few = write_rows(table.with_name("few.csv"), rows_of(table)[:8])
    done = hnm("predict", evaluated_run / "model", few, "--out", tmp_path, "--device", "cpu")
    assert f"hnm validate {evaluated_run / 'model'} {few} --out {tmp_path}" in done.output
    result = hnm("validate", evaluated_run / "model", few, "--out", tmp_path, *QUIET)
    assert result.exit_code == 0, result.output
    assert result.output.count("(was there)") == 8
    assert json_of(tmp_path)["drift"]["colours"]["eosin"]["median_now"] > 0


def test_what_cannot_be_measured_is_refused(evaluated_run: Path, cohort: Path, table: Path, tmp_path: Path) -> None:
    model, out = evaluated_run / "model", ("--out", tmp_path / "out", *QUIET)
    assert_refused(hnm("validate", model, cohort, "--by", "hospital", *out), 1, "--by hospital: the table of slides has no")
    assert_refused(hnm("validate", model, cohort, "--label-column", "grade", *out), 1, "no column 'grade'", "one of label")
    assert_refused(hnm("validate", model, cohort, "--part", "0.1", *out), 1, "and at least 5 are needed")
    assert_refused(hnm("validate", model, cohort, "mining.neg_ratio=1", *out), 2, "takes the sections tracking, reader, slurm")
    assert_refused(hnm("validate", model, cohort, "--out", evaluated_run, *QUIET), 1, "is a run. Give another folder")
    assert_refused(hnm("validate", model, table, "--slides-csv", table, *out), 1, "is a table itself")
    blank = write_rows(table.with_name("blank.csv"), [row | {"label": ""} for row in rows_of(table)])
    assert_refused(hnm("validate", model, blank, *out), 1, "no slide has a label in column 'label'")
    wide = table.parent / "wide"
    tile_cohort(table, wide, load_config(overrides=["tile.patch_px=32", "tile.background=none"]).tile)
    assert_refused(hnm("validate", model, wide, *out), 1, "patches of 32 x 32 px, and the model saw 16 px", "tile.patch_px=16")
    assert not list(tmp_path.glob("out/*.json"))
