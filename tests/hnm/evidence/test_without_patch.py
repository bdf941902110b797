"""A positive test slide without tissue counts as missed; what else gave no patch is counted and told."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnm.evidence.compare import read_test_scores
from hnm.evidence.crossval import out_of_fold
from hnm.evidence.evaluate import read_metrics
from hnm.model.export import export
from hnm.report.run_warnings import warnings_of
from hnm.run.seen import seen_of, write_seen
from launch.verbs.predict import open_record
from shards.cohort.cohort import Cohort
from shards.files import write_array, write_json
from tests.command_line import hnm
from tests.tiny import tiny_config

EMPTY, FAILED = "empty: no tissue on the thumbnail", "failed: damaged"
ADDED = {"lost-1": (1, "test", EMPTY), "lost-2": (0, "test", EMPTY), "lost-3": (1, "test", FAILED), "lost-4": (1, "train", EMPTY)}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, tiny_cohort: Path, finished_run: Path) -> tuple[Path, str]:
    """The finished run, as it would be of a cohort with four slides more that gave no patch; evaluated, and what that said."""
    folder = tmp_path_factory.mktemp("without")
    cohort, run = folder / "cohort", folder / "run"
    shutil.copytree(tiny_cohort, cohort)
    shutil.copytree(finished_run, run)
    table = pq.read_table(cohort / "slides.parquet")
    rows = table.to_pylist()
    for name, (label, split, status) in ADDED.items():
        new = {"slide_id": name, "patient_id": name, "label": label, "split": split, "status": status, "num_patches": 0}
        rows.append({**rows[-1], **new})
    pq.write_table(pa.Table.from_pylist(rows, table.schema), cohort / "slides.parquet")
    opened = Cohort.open(cohort)
    state = json.loads((run / "state.json").read_text()) | {"fingerprint": opened.fingerprint}
    del state["files"]  # slide_scores.npy is about to be another one
    write_json(run / "state.json", state)
    write_seen(run, seen_of(opened, tiny_config().data))
    for path in run.glob("round-*/slide_scores.npy"):
        write_array(path, np.append(np.load(path), np.full(len(ADDED), np.nan)))
    done = hnm("evaluate", run, "--cohort", cohort, "--ranks", "1", "--no-report")
    assert done.exit_code == 0, done.output
    return run, " ".join(done.output.split())


def test_both_figures_and_all_reasons_are_told(evaluated: tuple[Path, str], evaluated_run: Path) -> None:
    run, told = evaluated
    metrics, before = read_metrics(run), read_metrics(evaluated_run)
    assert metrics["without_patch"]["train"] == {"slides": 1, "positive": 1, "reasons": [f"1 {EMPTY}"]}
    assert metrics["without_patch"]["test"] == {"slides": 3, "positive": 2, "reasons": [f"2 {EMPTY}", f"1 {FAILED}"]}
    assert metrics["num_test_slides"] == before["num_test_slides"] + 1
    assert metrics["patients"] == {"all": 3, "positive": 2, "negative": 1}
    assert metrics["slide_without_missed"] == before["slide"]
    assert metrics["slide"]["sensitivity"] == before["slide"]["sensitivity"] / 2  # one of two positive slides more is missed
    assert metrics["instance"] == before["instance"]
    sentence = (
        f"3 test slides with a label gave no patch (2 positive; 2 {EMPTY}; 1 {FAILED}). The 1 positive without tissue count as "
        f"missed, with score 0: AUC {metrics['slide']['auc']:.3f} with them, {before['slide']['auc']:.3f} without"
    )
    assert sentence in told
    assert "2 are left out of all figures." in told
    assert "without the 1 positive ones without tissue" in told
    record = open_record(run, run.parent / "cohort")
    export(record, run.parent / "model")
    card = (run.parent / "model" / "MODEL.md").read_text()
    assert sentence in card
    assert "| figure, slides with tissue only | test |" in card
    assert "| test | 2 | 1 | 2 | 32 | 3 |" in card
    assert any(text.startswith(sentence) for text in warnings_of(record))
    assert record.judged[1].tolist() == [1, 4, 10]


def test_every_slide_with_a_label_has_a_row_with_its_reason(evaluated: tuple[Path, str]) -> None:
    run, _ = evaluated
    rows = {row["slide_id"]: row for row in pq.read_table(run / "predictions.parquet").to_pylist()}
    assert len(rows) == 10 + len(ADDED)
    assert {rows[name]["status"] for name in rows if name not in ADDED} == {"done"}
    for name, (label, split, status) in ADDED.items():
        its = rows[name]
        assert (its["label"], its["split"], its["status"]) == (label, split, status)
        assert (its["score"], its["predicted"]) == ((0.0, 0) if name == "lost-1" else (None, None))


def test_what_reads_the_predictions_counts_the_missed_and_no_slide_without_a_score(evaluated: tuple[Path, str]) -> None:
    run, _ = evaluated
    tested = read_test_scores(run)
    assert tested.slides.slide_ids.tolist() == ["lost-1", "slide-001", "slide-004"]
    assert tested.scores[0] == 0
    assert out_of_fold({(0, 0): run}, {(0, 0): 0.5})["slide_id"].to_pylist() == ["slide-001", "slide-004", "lost-1"]
