"""Compare two evaluated runs on the same test slides: both with intervals, their differences, DeLong's test.

Patch figures: hnm/evidence/compare_patches.py. Two cross-validations: hnm/evidence/compare_crossval.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hnm.engine.ranks import single_world
from hnm.evidence.evaluate import read_metrics
from hnm.evidence.measure import slide_figures
from hnm.run.broken import named
from hnm.run.checksums import EVALUATED_FILES, require_whole
from hnm.run.targets import TARGETS_FOLDER
from hnm.statistics.bootstrap import Interval, bootstrap_intervals
from hnm.statistics.delong import delong
from hnm.statistics.metrics import Figures
from shards.errors import InputError

MAX_LISTED = 3  # slides that an error names


@dataclass(frozen=True)
class SlideSet:
    """Which slides were tested, in the order of their names.

    Attributes:
        folder: of the run, or of the cross-validation.
        slide_ids: (n,) names.
        patients: (n,) whose slide it is.
        labels: (n,) 1 or 0.
    """

    folder: Path
    slide_ids: np.ndarray
    patients: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Tested:
    """What a run says of its test slides.

    Attributes:
        slides: which they are.
        scores: (n,) float in [0, 1].
        threshold: the run's own, chosen on its validation slides.
        metrics: the run's metrics.json.
    """

    slides: SlideSet
    scores: np.ndarray
    threshold: float
    metrics: dict[str, Any]


def read_test_scores(run: Path) -> Tested:
    """Read the predictions of an evaluated run.

    Raises:
        InputError: the run is not evaluated, or none of its test slides has a label.
    """
    if not (run / "predictions.parquet").is_file() or not (run / "metrics.json").is_file():
        raise InputError(f"{run}: no metrics.json and predictions.parquet here. Evaluate the run first: hnm evaluate {run}")
    require_whole([run / name for name in EVALUATED_FILES], run, single_world())
    table = pq.read_table(run / "predictions.parquet")
    if "repeat" in table.column_names:
        raise InputError(f"{run}: a cross-validation whose crossval.json is missing. Give the whole folder of hnm crossval")
    if "score" not in table.column_names:
        raise InputError(f"{run}: a run of several targets. Compare one at a time, by its folder in {run / TARGETS_FOLDER}")
    slide_ids, patients, splits, labels, scores = (
        table[name].to_numpy() for name in ("slide_id", "patient_id", "split", "label", "score")
    )
    rows = np.flatnonzero((splits == "test") & (labels >= 0) & table["score"].is_valid().to_numpy())
    if len(rows) == 0:
        raise InputError(f"{run / 'predictions.parquet'}: no test slide with a label, so there is nothing to compare")
    rows = rows[np.argsort(slide_ids[rows])]
    metrics = read_metrics(run)
    slides = SlideSet(run, slide_ids[rows], patients[rows], labels[rows])
    return Tested(slides, scores[rows], metrics["threshold"], metrics)


def compare(a: Tested, b: Tested, seed: int = 0) -> dict[str, Any]:
    """Compare two runs.

    Args:
        a: a run's test slides.
        b: another's, the same slides.
        seed: of the bootstrap.

    Returns:
        `num_slides`, `num_patients`, `delong_p` (None where a class has fewer than two slides), and by figure of the slides its
        `a`, `b`, `difference` (b - a) and the 95 % intervals of the three over resampled patients, the same resamples for both
        runs.

    Raises:
        InputError: the slides, their labels or patients differ, or a score is NaN.
    """
    require_same_slides(a.slides, b.slides)
    labels = a.slides.labels

    def of_rows(rows: np.ndarray) -> Figures:
        return paired(*(slide_figures(labels[rows], run.scores[rows], run.threshold) for run in (a, b)))

    intervals = bootstrap_intervals(of_rows, labels, a.slides.patients, seed=seed)
    return {
        "a": str(a.slides.folder),
        "b": str(b.slides.folder),
        "num_slides": len(labels),
        "num_patients": len(np.unique(a.slides.patients)),
        "delong_p": delong(labels, a.scores, b.scores).p,
        "figures": by_figure(of_rows(np.arange(len(labels))), intervals),
    }


def paired(a: Figures, b: Figures) -> Figures:
    """Return the figures of two on the same rows, and b - a, by "figure/a", "figure/b" and "figure/difference"."""
    figures: Figures = {}
    for name in [name for name in a if name in b]:
        first, second = a[name], b[name]
        difference = None if first is None or second is None else second - first
        figures |= {f"{name}/a": first, f"{name}/b": second, f"{name}/difference": difference}
    return figures


def by_figure(values: Figures, intervals: Mapping[str, Interval]) -> dict[str, dict[str, Any]]:
    """Return what `paired` gave by figure: its a, a_interval, b, b_interval, difference, difference_interval."""
    figures: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        name, _, which = key.rpartition("/")
        figures.setdefault(name, {})[which] = value
        figures[name][f"{which}_interval"] = intervals[key]._asdict()
    return figures


def delong_warning(result: Mapping[str, Any]) -> list[str]:
    """Return a sentence if slides that share a patient make the p-value of what `compare` returned too small."""
    slides, patients = result["num_slides"], result["num_patients"]
    if result["delong_p"] is None or slides == patients:
        return []
    return [
        f"DeLong's test takes the {slides} test slides as independent, but they are of {patients} patients: its p is too small, "
        "as a rule. The intervals draw patients."
    ]


def width_warning(figures: Mapping[str, Mapping[str, Any]], cause: str) -> list[str]:
    """Return a sentence on the intervals without width among figures in the form of `by_figure`.

    Args:
        figures: by name.
        cause: what such a figure is, such as "the same in every resample".
    """
    columns = {"a": "A", "b": "B", "difference": "B - A"}
    found = []
    for name, figure in figures.items():
        points = [word for which, word in columns.items() if _is_point(figure[f"{which}_interval"])]
        if points:
            found.append(f"{name.replace('_', ' ')} ({', '.join(points)})")
    return [f"an interval without width is no certainty, only {cause}: {named(found)}."] if found else []


def _is_point(interval: Mapping[str, Any]) -> bool:
    return interval["low"] is not None and interval["high"] - interval["low"] < 1e-12  # of equal folds: rounding


def require_same_slides(a: SlideSet, b: SlideSet) -> None:
    """Refuse two that were not tested on the same slides with the same labels and patients.

    Raises:
        InputError: naming some that differ.
    """
    only_a, only_b = np.setdiff1d(a.slide_ids, b.slide_ids), np.setdiff1d(b.slide_ids, a.slide_ids)
    for folder, only in ((a.folder, only_a), (b.folder, only_b)):
        if len(only):
            raise InputError(
                f"{a.folder} has {len(a.slide_ids)} test slides, {b.folder} has {len(b.slide_ids)}; {len(only)} are in {folder} "
                f"only, such as {some(only)}. Compare what was tested on the same slides"
            )
    for what, of_a, of_b in (("labels", a.labels, b.labels), ("patients", a.patients, b.patients)):
        if (of_a != of_b).any():
            differ = a.slide_ids[of_a != of_b]
            raise InputError(
                f"{a.folder} and {b.folder}: {len(differ)} test slides have other {what} in one than in the other, such as "
                f"{some(differ)}. Compare answers to the same question (data.label_column)"
            )


def some(names: np.ndarray) -> str:
    """Return the first few names, for a message."""
    return ", ".join(repr(str(name)) for name in names[:MAX_LISTED])
