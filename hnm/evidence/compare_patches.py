"""The patch figures of two runs on the same test patches: intervals of both and of their difference.

metrics.json of both ──▶ values ─┐
patch scores of both ──the same draws of patients──▶ values of each draw ──▶ 95 % intervals of a, b and b - a
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hnm.evidence.compare import by_figure, paired
from hnm.evidence.detect import count_detections, known_lesions
from hnm.evidence.measure import instance_draws
from hnm.run.study import Study
from hnm.statistics.bootstrap import Interval, intervals_of, resampled_weights
from hnm.statistics.froc import froc_draws, froc_score
from hnm.statistics.metrics import Figures
from shards.errors import InputError

COMPARED = ("auc", "auprc", "f1", "in_positive_auc", "in_positive_auprc", "in_positive_f1")
UNKNOWN = Interval(None, None, 0)


@dataclass(frozen=True)
class OpenedRun:
    """An evaluated run, opened with its cohort.

    Attributes:
        run: its folder.
        study: its cohort and roles.
        by_patch: (N,) patch_scores.npy.
        metrics: metrics.json.
    """

    run: Path
    study: Study
    by_patch: np.ndarray
    metrics: dict[str, Any]


def told_by_metrics(metrics_a: dict[str, Any], metrics_b: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the patch figures that both runs' metrics.json know, in the form of `hnm.evidence.compare.by_figure`.

    The intervals of a and b are those of metrics.json; that of the difference is not known from there.
    """
    values = paired(_values(metrics_a), _values(metrics_b))
    of_runs = {"a": _intervals(metrics_a), "b": _intervals(metrics_b), "difference": {}}
    intervals = {}
    for key in values:
        name, _, which = key.rpartition("/")
        intervals[key] = of_runs[which].get(name, UNKNOWN)
    return by_figure(values, intervals)


def compare_instance(a: OpenedRun, b: OpenedRun, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Return "instance auc" and so on, as both metrics.json know them, with intervals of both runs and of b - a.

    Args:
        a: a run.
        b: another, tested on the same patches.
        seed: of the bootstrap, whose resamples of patients are those of the slide figures.

    Raises:
        InputError: they were tested on other patches.
    """
    require_same_patches(a, b)
    values = _only("instance ", paired(_values(a.metrics), _values(b.metrics)))
    if not values:
        return {}
    weights = resampled_weights(a.study.patients_of(a.study.test), seed=seed)
    of_a, of_b = (instance_draws(its.by_patch, its.study, its.metrics["instance"]["threshold"], weights) for its in (a, b))
    draws: dict[str, np.ndarray] = {}
    for name in of_a:
        both = {"a": of_a[name], "b": of_b[name], "difference": of_b[name] - of_a[name]}
        draws |= {f"instance {name}/{which}": its for which, its in both.items()}
    return by_figure(values, intervals_of(draws))


def compare_froc(a: OpenedRun, b: OpenedRun, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Return "froc score" in the same way, if both metrics.json know it.

    Raises:
        InputError: they were tested on other patches, or the lesions are not those of the evaluations any more.
    """
    require_same_patches(a, b)
    values = _only("froc ", paired(_values(a.metrics), _values(b.metrics)))
    if not values:
        return {}
    lesions, _ = known_lesions(a.study)
    counts = [count_detections(its.study, its.by_patch, lesions) for its in (a, b)] if lesions else []
    now = [froc_score(its) for its in counts] or [None, None]
    then = [values["froc score/a"], values["froc score/b"]]
    if any(of_now is None or not np.isclose(of_now, of_then or 0.0) for of_now, of_then in zip(now, then, strict=True)):
        raise InputError(
            "the FROC comes out otherwise than in metrics.json: since then patch_scores.npy has changed, or the annotations that "
            f"{a.study.cohort.root / 'slides.parquet'} names have, or they are not there any more"
        )
    weights = resampled_weights(a.study.patients_of(np.array(list(lesions), np.int64)), seed=seed)
    of_a, of_b = (froc_draws(its, weights) for its in counts)
    draws = {"a": of_a, "b": of_b, "difference": of_b - of_a}
    return by_figure(values, intervals_of({f"froc score/{which}": its for which, its in draws.items()}))


def require_same_patches(a: OpenedRun, b: OpenedRun) -> None:
    """Refuse two that were not tested on the same patches of the same slides.

    Raises:
        InputError: naming what differs.
    """
    for its in (a, b):
        if len(its.by_patch) != its.study.cohort.num_patches:
            raise InputError(
                f"{its.run / 'patch_scores.npy'}: {len(its.by_patch):,} scores for the {its.study.cohort.num_patches:,} patches "
                f"of {its.study.cohort.root}"
            )
    same = a.study.cohort.fingerprint == b.study.cohort.fingerprint and np.array_equal(a.study.test, b.study.test)
    if not same:
        raise InputError(
            f"the runs are of two cohorts, {a.study.cohort.root} and {b.study.cohort.root}, or of other patches of one "
            "(data.witness_rate, seed)"
        )


def _values(metrics: dict[str, Any]) -> Figures:
    """Return the patch figures that a metrics.json knows, by "section name"."""
    instance, froc = metrics.get("instance") or {}, metrics.get("froc") or {}
    figures = {f"instance {name}": instance[name] for name in COMPARED if instance.get(name) is not None}
    return figures | ({"froc score": froc["score"]} if froc.get("score") is not None else {})


def _intervals(metrics: dict[str, Any]) -> dict[str, Interval]:
    """Return their intervals, as far as a metrics.json has them: older runs have none of patches."""
    instance, froc = metrics.get("instance") or {}, metrics.get("froc") or {}
    found = {f"instance {name}": its for name, its in instance.get("intervals", {}).items()}
    found |= {"froc score": froc["interval"]} if froc.get("score") is not None else {}
    return {name: Interval(**its) for name, its in found.items()}


def _only(section: str, values: Figures) -> Figures:
    return {name: value for name, value in values.items() if name.startswith(section)}
