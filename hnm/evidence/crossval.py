"""What the folds of a cross-validation say together: means with intervals, out-of-fold predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hnm.evidence.evaluate import read_metrics
from hnm.evidence.folds import over_folds
from hnm.evidence.measure import count_patients
from hnm.run.broken import named
from hnm.statistics.bootstrap import bootstrap_intervals, can_draw_sites
from hnm.statistics.metrics import Figures, auc
from hnm.statistics.zero_width import zero_width_warning
from shards.files import whole_file

PREDICTED = ["slide_id", "patient_id", "label", "score", "predicted"]  # runs of before 2026-11-28 have no other columns
SECTIONS = ("slide", "patient", "instance", "froc", "context")


def figures_of_run(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the figures of one fold's metrics.json that are averaged, by "section name"; unknown ones are left out."""
    figures: dict[str, float] = {}
    for section in SECTIONS:
        for name, value in (metrics.get(section) or {}).items():
            if isinstance(value, int | float) and not name.startswith(("num_", "threshold")):
                figures[f"{section} {name}"] = float(value)
    return figures


def values_of(figures: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return by name the values of a figure in the folds that know it."""
    names = dict.fromkeys(name for its in figures for name in its)
    return {name: [its[name] for its in figures if name in its] for name in names}


def means_of(figures: Sequence[Mapping[str, float]], num_folds: int) -> dict[str, dict[str, Any]]:
    """Return by name the mean of a figure over folds with its interval: see `over_folds`."""
    return {name: over_folds(values, num_folds) for name, values in values_of(figures).items()}


def summarise(
    runs: dict[tuple[int, int], Path], num_folds: int, seed: int, site_of: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], pa.Table]:
    """Return what metrics.json says of a whole cross-validation, and the out-of-fold predictions.

    Args:
        runs: the evaluated run of each (repeat, fold); where some are missing, all figures are of those that are there.
        num_folds: of one repeat.
        seed: of the bootstrap.
        site_of: the hospital of each slide, where folds are by site; None: they are by patient.
    """
    metrics = {key: read_metrics(run) for key, run in runs.items()}
    figures = {key: figures_of_run(its) for key, its in metrics.items()}
    predictions = out_of_fold(runs, {key: its["threshold"] for key, its in metrics.items()})
    rows = [
        {
            "repeat": repeat,
            "fold": fold,
            "chosen_round": metrics[repeat, fold]["chosen_round"],
            "num_test_slides": metrics[repeat, fold]["num_test_slides"],
            "encoder_steps": metrics[repeat, fold]["encoder_steps"],
            "seconds": metrics[repeat, fold]["seconds"],
            "figures": figures[repeat, fold],
            "warnings": metrics[repeat, fold].get("warnings", []),
        }
        for repeat, fold in runs
    ]
    values = values_of(list(figures.values()))
    its = arrays_of(of_whole_repeats(predictions, num_folds))
    sites = None if site_of is None else np.array([site_of[name] for name in its.slide_ids.tolist()])
    by_site = sites is not None and can_draw_sites(sites)
    return {
        "num_folds": num_folds,
        "mean": means_of(list(figures.values()), num_folds),
        "out_of_fold": pooled_of(its, seed, sites if by_site else None),
        **({"interval_by": "site"} if by_site else {}),
        "patients": count_patients(its.labels, its.patients),
        "folds": rows,
        "interval_warnings": pooled_warning(its) + means_warning(values),
    }, predictions


def out_of_fold(runs: dict[tuple[int, int], Path], thresholds: dict[tuple[int, int], float]) -> pa.Table:
    """Return each slide's prediction by the model that neither trained nor chose by it: a row per repeat and slide."""
    tables = []
    for (repeat, fold), run in runs.items():
        scored = (pc.field("split") == "test") & pc.field("score").is_valid()
        table = pq.read_table(run / "predictions.parquet", columns=PREDICTED, filters=scored)
        constants = {
            "repeat": np.full(len(table), repeat, np.int32),
            "fold": np.full(len(table), fold, np.int32),
            "threshold": np.full(len(table), thresholds[repeat, fold]),
        }
        for name, values in constants.items():
            table = table.append_column(name, pa.array(values))
        tables.append(table)
    return pa.concat_tables(tables)


def of_whole_repeats(predictions: pa.Table, num_folds: int) -> pa.Table:
    """Return the predictions of the repeats of which all folds are there; if there is none, those of the repeat with most slides.

    Only such repeats have the same slides, and can be averaged slide by slide.
    """
    repeats, folds = predictions["repeat"].to_numpy(), predictions["fold"].to_numpy()
    numbers, num_rows = np.unique(repeats, return_counts=True)
    whole = [number for number in numbers if len(np.unique(folds[repeats == number])) == num_folds]
    chosen = whole or [numbers[num_rows.argmax()]]
    return predictions if len(chosen) == len(numbers) else predictions.filter(pa.array(np.isin(repeats, chosen)))


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold predictions as arrays: n slides in the order of their names, r repeats.

    Attributes:
        slide_ids: (n,) names.
        patients: (n,) whose slide it is.
        labels: (n,) 1 or 0.
        folds: (r, n) int32, which fold tested the slide.
        scores: (r, n) float in [0, 1].
        right: (r, n) bool, called by its label at its fold's threshold.
    """

    slide_ids: np.ndarray
    patients: np.ndarray
    labels: np.ndarray
    folds: np.ndarray
    scores: np.ndarray
    right: np.ndarray

    def figures_of(self, rows: np.ndarray) -> Figures:
        """Return the AUC and accuracy of the slides `rows`, drawn ones repeat: the mean over repeats."""
        aucs = [value for its in self.scores if (value := auc(self.labels[rows], its[rows])) is not None]
        return {"auc": float(np.mean(aucs)) if aucs else None, "accuracy": float(self.right[:, rows].mean())}


def arrays_of(predictions: pa.Table) -> OutOfFold:
    """Return what `out_of_fold` made as arrays."""
    names = ("repeat", "fold", "slide_id", "patient_id", "label", "score", "predicted")
    columns = {name: predictions[name].to_numpy() for name in names}
    num_repeats = len(np.unique(columns["repeat"]))
    order = np.lexsort([columns["slide_id"].astype(str), columns["repeat"]]).reshape(num_repeats, -1)  # (repeats, slides)
    slide_ids, patients, labels = (columns[name][order[0]] for name in ("slide_id", "patient_id", "label"))
    right = (columns["predicted"] == columns["label"])[order]
    return OutOfFold(slide_ids, patients, labels, columns["fold"][order], columns["score"][order], right)


def pooled_of(its: OutOfFold, seed: int, sites: np.ndarray | None = None) -> dict[str, Any]:
    """Return the AUC and accuracy of all out-of-fold predictions together: the mean over repeats, with intervals.

    Scores of different folds come from different models, each with its own scale: the pooled AUC is a little pessimistic,
    and the mean over folds is the first figure to look at. Intervals are by patient; with `sites` (n,) of the slides by site.
    """
    groups = its.patients if sites is None else sites
    intervals = bootstrap_intervals(its.figures_of, its.labels, groups, seed=seed)
    values = its.figures_of(np.arange(len(its.labels)))
    return {name: {"value": value, **intervals[name]._asdict()} for name, value in values.items()}


def pooled_warning(its: OutOfFold) -> list[str]:
    """Return what the interval of the pooled AUC does not show, if the AUC is 1 (or 0) in every repeat: `zero_width_warning`."""
    told = {tuple(zero_width_warning(its.labels, scores, its.patients, slides="slides out of fold")) for scores in its.scores}
    return list(told.pop()) if len(told) == 1 else []


def means_warning(values: Mapping[str, Sequence[float]]) -> list[str]:
    """Return a sentence on figures that are the same in all folds, which leaves the interval of their mean no width.

    Args:
        values: by name a figure in the folds that know it.
    """
    same = [name.replace("_", " ") for name, of_folds in values.items() if len(of_folds) > 1 and len(set(of_folds)) == 1]
    if not same:
        return []
    return [f"all folds have the same {named(same)}: that the intervals of these means have no width is no certainty."]


def write_predictions(path: Path, predictions: pa.Table) -> None:
    """Write the out-of-fold predictions."""
    with whole_file(path) as temporary:
        pq.write_table(predictions, temporary)
