"""Patients of several slides: their scores by hand, their figures as of slides, and silence where each has one."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hnm.evidence.measure import slide_figures
from hnm.evidence.patients import gather_patients, patient_part, patient_threshold, write_patients
from hnm.run.study import DataConfig, Study, open_study
from hnm.statistics.thresholds import EvaluateConfig, choose_threshold
from tests.hnm.run.test_study import with_column
from tests.hnm.worlds import tables_only_cohort, tables_only_study

SCORES = np.random.default_rng(3).random(18)


def study_of(patients: list[str]) -> Study:
    return open_study(with_column(tables_only_cohort(), "patient_id", list(patients)), DataConfig(), 0)


# slide s has the label s % 2; slides 10 to 13 validate, 14 to 17 are tested
OWN = [f"p{slide}" for slide in range(10)]
PAIRED = [*OWN, "v0", "v1", "v0", "v1", "t0", "t1", "t0", "t1"]


@pytest.mark.parametrize(("how", "scores"), [("mean", [0.3, 0.7, 0.25]), ("max", [0.4, 0.9, 0.25])])
def test_a_patient_has_the_mean_or_the_highest_score_of_his_slides(how: str, scores: list[float]) -> None:
    patients = np.array(["b", "a", "a", "b", "c", "d", "c"])
    labels = np.array([0, 0, 0, 1, -1, -1, 0])
    its = gather_patients(patients, labels, np.array([0.9, 0.2, 0.4, 0.5, 0.25, np.nan, np.nan]), how)
    assert its.names.tolist() == ["a", "b", "c", "d"]
    np.testing.assert_allclose(its.scores, [*scores, np.nan])
    assert its.labels.tolist() == [0, 1, 0, -1]
    assert its.num_slides.tolist() == [2, 2, 1, 0]
    assert its.num_mixed == 1


def test_figures_of_patients_are_those_of_their_scores() -> None:
    study, config = study_of(PAIRED), EvaluateConfig(threshold="sensitivity=0.9")
    part = patient_part(SCORES, study, config, seed=0)
    labels, scores = np.array([0, 1]), np.array([SCORES[[14, 16]].mean(), SCORES[[15, 17]].mean()])
    threshold = choose_threshold(labels, np.array([SCORES[[10, 12]].mean(), SCORES[[11, 13]].mean()]), "sensitivity=0.9")
    assert part["patient_threshold"] == threshold == patient_threshold(SCORES, study, config)
    assert part["patient"] == slide_figures(labels, scores, threshold)
    assert (part["headline"], part["num_test_patients"], part["patient_warnings"]) == ("patient", 2, [])
    assert set(part["patient_intervals"]) == set(part["patient"])


def test_with_a_slide_a_patient_nothing_is_told_twice() -> None:
    assert patient_part(SCORES, tables_only_study(), EvaluateConfig(), seed=0) == {}
    assert patient_threshold(SCORES, tables_only_study(), EvaluateConfig()) is None


def test_slides_of_both_labels_are_told_and_no_error() -> None:
    mixed = study_of([*OWN, "v0", "v1", "v2", "v3", "t0", "t0", "t1", "t2"])
    (warning,) = patient_part(SCORES, mixed, EvaluateConfig(), seed=0)["patient_warnings"]
    assert warning.startswith("1 test patients have slides of both labels and count as positive; their negative slides lower")
    assert "evaluate.patient_score=max" in warning
    of_highest = patient_part(SCORES, mixed, EvaluateConfig(patient_score="max"), seed=0)["patient_warnings"]
    assert of_highest == ["1 test patients have slides of both labels and count as positive."]


def test_every_patient_has_a_row(tmp_path: Path) -> None:
    write_patients(tmp_path / "patients.parquet", SCORES, 0.5, study_of(PAIRED), "max")
    table = pq.read_table(tmp_path / "patients.parquet").to_pandas()
    assert table.split.tolist() == ["train"] * 10 + ["validation"] * 2 + ["test"] * 2
    np.testing.assert_allclose(table.score[10:12], [SCORES[[10, 12]].max(), SCORES[[11, 13]].max()])
    np.testing.assert_array_equal(table.predicted, table.score >= 0.5)
    assert table.num_slides.tolist() == [1] * 10 + [2] * 4
