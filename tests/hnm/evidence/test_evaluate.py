"""The test split: read once, with choices that were made on validation slides."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnm.baselines.of_run import read_fitted
from hnm.engine.ranks import single_world
from hnm.evidence.evaluate import evaluate, read_metrics
from hnm.evidence.measure import slide_figures
from hnm.run.phase import read_state
from hnm.run.session import Session
from hnm.run_rounds import round_folder
from hnm.statistics.metrics import auc, youden_threshold
from shards.errors import InputError
from tests.tiny import results_of, tiny_config, tiny_session

TEST_SLIDES = np.array([1, 4])


@pytest.fixture(scope="module")
def evaluated(
    tmp_path_factory: pytest.TempPathFactory, finished_run: Path, tiny_cohort: Path
) -> tuple[Path, dict[str, Any]]:
    """A copy of the finished run, and what evaluating it returned."""
    run = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(finished_run, run)
    config = tiny_config()
    with tiny_session(single_world(), tiny_cohort, config) as session:
        metrics = evaluate(config, run, session)
    assert metrics is not None
    return run, metrics


def test_metrics_are_those_of_the_predictions(evaluated: tuple[Path, dict[str, Any]]) -> None:
    run, metrics = evaluated
    assert read_metrics(run) == metrics
    table = pq.read_table(run / "predictions.parquet").to_pandas()
    assert table.slide_id.tolist() == [f"slide-{s:03d}" for s in range(10)]
    assert table.split.value_counts().to_dict() == {"train": 6, "validation": 2, "test": 2}
    assert table.label.tolist() == [s % 2 for s in range(10)]
    test, validation = (table[table.split == name] for name in ("test", "validation"))
    threshold = youden_threshold(validation.label.to_numpy(), validation.score.to_numpy())
    assert metrics["threshold"] == threshold
    assert metrics["slide"] == slide_figures(test.label.to_numpy(), test.score.to_numpy(), threshold)
    np.testing.assert_array_equal(table.predicted, table.score >= threshold)
    assert metrics["num_test_slides"] == 2
    assert metrics["threshold_policy"] == "youden"
    values = metrics["predictive_values"]
    assert values["prevalence"] == 0.5
    assert values["ppv"] == (metrics["slide"]["precision"] if test.predicted.any() else None)
    assert not any("prevalence" in name for name in values if name != "prevalence")  # none was stated
    assert "patient" not in metrics  # a slide a patient
    assert not (run / "patients.parquet").exists()


def test_the_round_was_chosen_on_validation(evaluated: tuple[Path, dict[str, Any]]) -> None:
    _, metrics = evaluated
    best = max(metrics["rounds"], key=lambda row: (row["validation_auc"], -row["validation_loss"]))
    assert metrics["chosen_round"] == best["round"]
    assert metrics["validation"]["auc"] == best["validation_auc"]


def test_patch_scores_hold_the_test_patches_too(evaluated: tuple[Path, dict[str, Any]], tiny_cohort: Path) -> None:
    run, metrics = evaluated
    scores, before = (
        np.load(run / "patch_scores.npy"),
        np.load(round_folder(run, metrics["chosen_round"]) / "scores.npy"),
    )
    assert np.isfinite(scores).all()
    is_test = np.isin(np.repeat(np.arange(10), 16), TEST_SLIDES)
    np.testing.assert_array_equal(np.isnan(before), is_test)
    np.testing.assert_array_equal(scores[~is_test], before[~is_test])
    truth = pq.read_table(tiny_cohort / "patches.parquet")["truth"].to_numpy()
    assert metrics["instance"]["auc"] == auc(truth[is_test], scores[is_test])
    assert not list(run.glob("test-features*"))


def test_the_run_stands_beside_its_baselines_and_its_context(evaluated: tuple[Path, dict[str, Any]]) -> None:
    run, metrics = evaluated
    fitted = read_fitted(run / "round-000" / "baselines.npz")
    assert set(metrics["baselines"]["methods"]) == set(fitted) == {"mean", "meanstd", "instance"}
    assert metrics["baselines"]["warnings"] == []  # all patches were seen
    for name, its in metrics["baselines"]["methods"].items():
        assert its["chosen"] == fitted[name].chosen
        assert its["run_minus_it"]["auc"] == metrics["slide"]["auc"] - its["slide_auc"]
        assert 0 <= its["validation_auc"] <= 1
        assert (its["instance_auc"] is None) == (name == "meanstd")
        assert its["slide_auc_without_positive_patches"] in (0.0, 0.5, 1.0)  # of one slide of each kind
    assert metrics["context"]["num_slides"] == 2
    assert metrics["context"]["slide_auc"] == metrics["slide"]["auc"]
    assert (metrics["context"]["num_unknown"], metrics["context"]["num_nothing_left"]) == (0, 0)


def test_steps_and_seconds_add_up(evaluated: tuple[Path, dict[str, Any]]) -> None:
    run, metrics = evaluated
    phases = read_state(run)["phases"]
    assert [record["phase"] for record in phases][-1] == "evaluate"
    assert metrics["encoder_steps"] == sum(record["steps"] for record in phases if record["phase"] == "finetune") > 0
    assert metrics["seconds"] == pytest.approx(sum(record["seconds"] for record in phases), abs=0.06)


def test_evaluation_repeats_to_the_bit_and_leaves_the_rounds_alone(
    evaluated: tuple[Path, dict[str, Any]], finished_run: Path, tiny_cohort: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    config = tiny_config()
    with tiny_session(single_world(), tiny_cohort, config) as session:
        evaluate(config, run, session)
    again, before = results_of(run), results_of(finished_run)
    assert {name: again[name] for name in before} == before
    assert again["predictions.parquet"] == results_of(evaluated[0])["predictions.parquet"]
    assert again["patch_scores.npy"] == results_of(evaluated[0])["patch_scores.npy"]


def test_an_unfinished_run_and_a_cohort_without_test_slides_are_refused(
    finished_run: Path, tiny_cohort: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / "round-002" / "mining.json").unlink()
    config = tiny_config()
    with tiny_session(single_world(), tiny_cohort, config) as session:
        with pytest.raises(
            InputError, match=r"training is not finished \(round-002 has no mining\.json\).*same hnm train"
        ):
            evaluate(config, run, session)
        without = without_test_slides(session, "split", ["train"] * 10)
        with pytest.raises(InputError, match=r"slides\.parquet.*'test'.*data\.split_column"):
            evaluate(config, run, without)
    assert not (run / "metrics.json").exists()


def test_lesions_histograms_and_calibration_are_in_the_metrics(
    evaluated: tuple[Path, dict[str, Any]], tiny_cohort: Path
) -> None:
    _, metrics = evaluated
    froc, truth = metrics["froc"], pq.read_table(tiny_cohort / "patches.parquet").to_pandas()
    assert (froc["num_slides"], froc["num_slides_left_out"], froc["lesions_from"]) == (2, 0, ["patches"])
    assert 1 <= froc["num_lesions"] <= int((truth.truth[truth.slide == 1] == 1).sum())
    assert froc["score"] == pytest.approx(np.mean(list(froc["sensitivity_at"].values())))
    assert 0 <= froc["score"] <= 1
    assert sum(part["num"] for part in metrics["calibration"]["bins"]) == 2
    assert set(metrics["slide_intervals"]) == set(metrics["slide"])
    assert metrics["slide_intervals"]["auc"] == metrics["slide_auc_interval"]
    for row in metrics["rounds"]:
        histogram = row["score_histogram"]["train"]
        assert (sum(histogram["negative_slides"]), sum(histogram["positive_slides"])) == (48, 48)
        assert sum(histogram["positive_patches"]) > 0
    assert metrics["warnings"] == []
    (told,) = metrics["interval_warnings"]  # one slide of each kind: all figures of slides are 0 or 1
    for name in ("auc", "sensitivity", "specificity"):
        value = metrics["slide"][name]
        assert f"{name.upper() if name == 'auc' else name + ' is'} {value:.0f}" in told


def test_test_slides_without_labels_are_a_clear_word(finished_run: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    config = tiny_config()
    labels = [None if s in TEST_SLIDES else s % 2 for s in range(10)]
    with tiny_session(single_world(), tiny_cohort, config) as session:
        without = without_test_slides(session, "label", labels)
        with pytest.raises(InputError, match=r"2 slides of column 'split' are 'test', but none has a label"):
            evaluate(config, run, without)


def without_test_slides(session: Session, column: str, values: list[Any]) -> Session:
    """Return the session of a cohort whose column gives no slide to test."""
    study, slides = session.study, session.study.cohort.slides
    changed = slides.set_column(slides.column_names.index(column), column, pa.array(values))
    cohort = replace(study.cohort, slides=changed)
    return replace(session, study=replace(study, cohort=cohort, test=np.empty(0, np.int64)))
