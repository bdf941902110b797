"""A patient's slides as one answer: the mean or the highest of their scores, a row and figures a patient beside the slides'.

    scores, labels, patients of slides (n,) ──mean | max──▶ scores, labels of patients (p,) ──validation's threshold──▶ figures

A patient is positive who has a positive slide. Where every patient has one slide a patient is a slide, and nothing is told twice.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnm.evidence.measure import slide_figures
from hnm.run.study import Study
from hnm.statistics.bootstrap import bootstrap_intervals
from hnm.statistics.thresholds import EvaluateConfig, PatientScore, choose_threshold
from shards.files import whole_file

PATIENTS_FILE = "patients.parquet"


@dataclass(frozen=True)
class Patients:
    """The patients of some slides, in the order of their names.

    Attributes:
        names: (p,).
        labels: (p,) int8: 1 where a slide is positive, else 0 where one is negative, else -1.
        scores: (p,) float64, NaN where no slide has one.
        num_slides: (p,) int64, slides with a score.
        first: (p,) int64, the place of a slide of each.
        num_mixed: how many have slides of both labels.
    """

    names: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    num_slides: np.ndarray
    first: np.ndarray
    num_mixed: int


def gather_patients(patients: np.ndarray, labels: np.ndarray, scores: np.ndarray, how: PatientScore) -> Patients:
    """Return the patients of slides.

    Args:
        patients: (n,) whose slide it is.
        labels: (n,) 1, 0, or -1 (unknown).
        scores: (n,) float, NaN where there is none.
        how: `EvaluateConfig.patient_score`.
    """
    names, first, own = np.unique(patients.astype(str), return_index=True, return_inverse=True)
    known = np.isfinite(scores)
    num = np.bincount(own[known], minlength=len(names))
    if how == "max":
        of_patient = np.full(len(names), -np.inf)
        np.maximum.at(of_patient, own[known], scores[known])
    else:
        of_patient = np.bincount(own[known], weights=scores[known], minlength=len(names)) / np.maximum(num, 1)
    label = np.full(len(names), -1, np.int8)
    np.maximum.at(label, own, labels.astype(np.int8))
    kinds = [np.bincount(own[labels == kind], minlength=len(names)) > 0 for kind in (1, 0)]
    scored = np.where(num > 0, of_patient, np.nan)
    return Patients(names, label, scored, num, first, int((kinds[0] & kinds[1]).sum()))


def patients_of_slides(slides: np.ndarray, by_slide: np.ndarray, study: Study, how: PatientScore) -> Patients:
    """Return the patients of the slides with these numbers."""
    return gather_patients(study.patients_of(slides), study.labels[slides], by_slide[slides], how)


def patient_threshold(by_slide: np.ndarray, study: Study, config: EvaluateConfig) -> float | None:
    """Return from which score on a patient is positive, chosen on validation patients; None where each has one slide.

    Args:
        by_slide: (S,) slide scores, those of the validation slides among them.
        study: the cohort and its parts.
        config: the section `evaluate`.
    """
    its = patients_of_slides(study.validation, by_slide, study, config.patient_score)
    has_several = len(its.names) < len(study.validation) or len(set(study.patients_of(study.judged))) < len(study.judged)
    return choose_threshold(its.labels, its.scores, config.threshold) if has_several else None


def patient_part(by_slide: np.ndarray, study: Study, config: EvaluateConfig, seed: int) -> dict[str, Any]:
    """Return what metrics.json says of test patients; nothing where each has one slide.

    Args:
        by_slide: (S,) slide scores.
        study: the cohort and its parts.
        config: the section `evaluate`.
        seed: of the bootstrap.

    Returns:
        `patient`: the figures of patients as of slides; `patient_intervals`, `patient_threshold`, `patient_score` (mean or max),
        `num_test_patients`, `headline`: "patient", and `patient_warnings`.
    """
    judged, threshold = study.judged, patient_threshold(by_slide, study, config)
    its = patients_of_slides(judged, by_slide, study, config.patient_score)
    if threshold is None or len(its.names) == len(judged):
        return {}

    def figures_of(rows: np.ndarray) -> dict[str, float | None]:
        return slide_figures(its.labels[rows], its.scores[rows], threshold)

    groups = study.drawn_by(judged)[its.first]
    intervals = bootstrap_intervals(figures_of, its.labels, groups, seed=seed)
    return {
        "headline": "patient",  # slides of one patient are no independent answers, and a clinic asks for the patient
        "patient": figures_of(np.arange(len(its.names))),
        "patient_intervals": {name: interval._asdict() for name, interval in intervals.items()},
        "patient_threshold": threshold,
        "patient_score": config.patient_score,
        "num_test_patients": len(its.names),
        "patient_warnings": _mixed_warning(its, config.patient_score),
    }


def _mixed_warning(its: Patients, how: PatientScore) -> list[str]:
    if not its.num_mixed:
        return []
    remedy = "" if how == "max" else "; their negative slides lower the mean: evaluate.patient_score=max takes the highest"
    return [f"{its.num_mixed} test patients have slides of both labels and count as positive{remedy}."]


def write_patients(path: Path, by_slide: np.ndarray, threshold: float, study: Study, how: PatientScore) -> None:
    """Write a row per patient of each split: patient_id, split, label, num_slides (with a score), score, predicted."""
    tables = []
    for name, slides in (("train", study.train), ("validation", study.validation), ("test", study.judged)):
        its = patients_of_slides(slides, by_slide, study, how)
        unknown = np.isnan(its.scores)
        columns = {
            "patient_id": its.names,
            "split": [name] * len(its.names),
            "label": its.labels,
            "num_slides": its.num_slides,
            "score": pa.array(its.scores, mask=unknown),
            "predicted": pa.array((its.scores >= threshold).astype(np.int8), mask=unknown),
        }
        tables.append(pa.table(columns))
    with whole_file(path) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary)
