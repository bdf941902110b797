"""Compare two cross-validations with the same folds: means, the difference fold by fold, and the pooled AUC.

    metrics.json of both ──fold by fold──▶ b - a of each fold ──▶ mean, 95 % interval corrected for shared training slides
    predictions.parquet of both ──the same draws of patients──▶ pooled AUC of a, b and b - a, 95 % intervals

Folds differ more from one another than two methods on one fold do, so the difference fold by fold is the sharper question. The
interval of the pooled AUC is narrower, and says less: that of these models on other patients, not of other training slides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hnm.evidence.compare import SlideSet, by_figure, paired, require_same_slides, some
from hnm.evidence.crossval import OutOfFold, arrays_of
from hnm.evidence.evaluate import read_metrics
from hnm.evidence.folds import over_folds
from hnm.statistics.bootstrap import bootstrap_intervals
from hnm.statistics.metrics import Figures
from shards.errors import InputError

FoldFigures = Mapping[Any, Mapping[str, float]]  # by fold, of any sortable type, then by "section name"; unknown: left out


@dataclass(frozen=True)
class CrossValidated:
    """What the folder of a finished `hnm crossval` says.

    Attributes:
        slides: which were tested.
        num_folds: of one repeat.
        num_repeats: how often the folds were drawn.
        figures: by (repeat, fold), then by "section name".
        predictions: out of fold.
    """

    slides: SlideSet
    num_folds: int
    num_repeats: int
    figures: FoldFigures
    predictions: OutOfFold


def read_crossval(folder: Path, num_folds: int, num_repeats: int) -> CrossValidated:
    """Read a cross-validation of so many folds and repeats.

    Raises:
        InputError: it is not finished.
    """
    metrics = read_metrics(folder) if (folder / "metrics.json").is_file() else {"folds": []}
    figures = {(its["repeat"], its["fold"]): its["figures"] for its in metrics["folds"]}
    if len(figures) != num_folds * num_repeats:
        done = len(list(folder.glob("repeat-*/fold-*/metrics.json")))
        raise InputError(
            f"{folder}: this cross-validation is not finished ({done} of {num_folds * num_repeats} folds are done, and they are "
            "summarised after the last). Run the same hnm crossval again"
        )
    predictions = arrays_of(pq.read_table(folder / "predictions.parquet"))
    slides = SlideSet(folder, predictions.slide_ids, predictions.patients, predictions.labels)
    return CrossValidated(slides, num_folds, num_repeats, figures, predictions)


def compare_crossvals(a: CrossValidated, b: CrossValidated, seed: int = 0) -> dict[str, Any]:
    """Compare two cross-validations.

    Args:
        a: a cross-validation.
        b: another, with the same folds.
        seed: of the bootstrap.

    Returns:
        `num_folds`, `num_repeats`, `num_slides`; `figures`: by "section name" the means over folds `a`, `b`, of b - a fold by
        fold `difference`, and their intervals (see `hnm.evidence.folds.over_folds`); `out_of_fold`: the same of the pooled
        AUC and accuracy, with bootstrap intervals by patient.

    Raises:
        InputError: the folds, slides, labels or patients differ, or a score is NaN.
    """
    require_same_folds(a, b)
    names = [name for name in known_names(a.figures) if name in known_names(b.figures)]
    columns = {
        "a": means(a.figures, names, a.num_folds),
        "b": means(b.figures, names, a.num_folds),
        "difference": mean_differences(b.figures, a.figures, names, a.num_folds),
    }
    figures: dict[str, dict[str, Any]] = {name: {} for name in names}
    for which, of_names in columns.items():
        for name, its in of_names.items():
            its = its or {"mean": None, "low": None, "high": None, "num": 0}
            figures[name] |= {which: its["mean"], f"{which}_interval": {key: its[key] for key in ("low", "high", "num")}}
    return {
        "a": str(a.slides.folder),
        "b": str(b.slides.folder),
        "num_folds": a.num_folds,
        "num_repeats": a.num_repeats,
        "num_slides": len(a.slides.labels),
        "figures": figures,
        "out_of_fold": _pooled(a.predictions, b.predictions, seed),
    }


def known_names(figures: FoldFigures) -> list[str]:
    """Return the names of all figures that some fold knows, in the order in which they come."""
    return list(dict.fromkeys(name for its in figures.values() for name in its))


def means(figures: FoldFigures, names: Sequence[str], num_folds: int) -> dict[str, dict[str, Any] | None]:
    """Return by name the mean of a figure over the folds that know it, with its interval; None where none does."""
    return {name: _over_known([its.get(name) for its in figures.values()], num_folds) for name in names}


def mean_differences(
    first: FoldFigures, second: FoldFigures, names: Sequence[str], num_folds: int
) -> dict[str, dict[str, Any] | None]:
    """Return by name the mean of (first - second) over the folds that both know, with its interval; None where none is.

    Args:
        first: figures by fold.
        second: of the same folds.
        names: of figures.
        num_folds: of one repeat.
    """
    shared = sorted(first.keys() & second.keys())
    result = {}
    for name in names:
        pairs = [(first[key].get(name), second[key].get(name)) for key in shared]
        result[name] = _over_known([x - y if x is not None and y is not None else None for x, y in pairs], num_folds)
    return result


def require_same_folds(a: CrossValidated, b: CrossValidated) -> None:
    """Refuse two that did not test the same slides in the same folds.

    Raises:
        InputError: naming some that differ.
    """
    if (a.num_folds, a.num_repeats) != (b.num_folds, b.num_repeats):
        counts = [f"{its.slides.folder} has {its.num_folds} folds x {its.num_repeats}" for its in (a, b)]
        raise InputError(f"{', '.join(counts)}. Compare cross-validations with the same --folds and --repeats")
    require_same_slides(a.slides, b.slides)
    differ = a.predictions.folds != b.predictions.folds
    if differ.any():
        slides = a.slides.slide_ids[differ.any(axis=0)]
        raise InputError(
            f"{a.slides.folder} and {b.slides.folder}: {len(slides)} of {len(a.slides.slide_ids)} slides are tested in other "
            f"folds, such as {some(slides)}. Compare cross-validations of one cohort with the same seed"
        )


def _over_known(values: Sequence[float | None], num_folds: int) -> dict[str, Any] | None:
    known = [value for value in values if value is not None]
    return over_folds(known, num_folds) if known else None


def _pooled(a: OutOfFold, b: OutOfFold, seed: int) -> dict[str, dict[str, Any]]:
    def of_rows(rows: np.ndarray) -> Figures:
        return paired(a.figures_of(rows), b.figures_of(rows))

    return by_figure(of_rows(np.arange(len(a.labels))), bootstrap_intervals(of_rows, a.labels, a.patients, seed=seed))
