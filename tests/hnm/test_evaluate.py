"""The test split: read once, with choices that were made on validation slides."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from hnm.evaluate import evaluate, instance_part, read_metrics
from hnm.metrics import auc, scores_at, youden_threshold
from hnm.phase import read_state
from hnm.rounds import round_folder
from hnm.session import Session
from launch.distributed import single_world
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
    assert metrics["slide"] == scores_at(test.label.to_numpy(), test.score.to_numpy(), threshold)
    np.testing.assert_array_equal(table.predicted, table.score >= threshold)
    assert metrics["num_test_slides"] == 2


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
    assert not (run / "test-features").exists()


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
        without = replace(session, study=replace(session.study, test=np.empty(0, np.int64)))
        with pytest.raises(InputError, match=r"slides\.parquet.*'test'.*data\.split_column"):
            evaluate(config, run, without)
    assert not (run / "metrics.json").exists()


def with_truth(session: Session, truth: np.ndarray) -> Session:
    study = session.study
    return replace(
        session, study=replace(study, cohort=replace(study.cohort, patches=replace(study.cohort.patches, truth=truth)))
    )


def test_instance_metrics_need_truth_on_validation_and_test(tiny_cohort: Path) -> None:
    scores = np.random.default_rng(0).random(160)
    with tiny_session(single_world(), tiny_cohort, tiny_config()) as session:
        truth, validation = session.study.cohort.patches.truth, session.study.patches_of(session.study.validation)
        figures = instance_part(scores, session)
        assert figures is not None
        assert figures["threshold"] == youden_threshold(truth[validation], scores[validation])
        for slides in (session.study.validation, session.study.test):
            unknown = truth.copy()
            unknown[session.study.patches_of(slides)] = -1
            assert instance_part(scores, with_truth(session, unknown)) is None
