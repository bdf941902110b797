"""Patch figures of two runs: their difference over the resamples by hand, and what cannot be compared."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hnm.evidence.compare_patches import OpenedRun, compare_froc, compare_instance, told_by_metrics
from hnm.evidence.detect import froc_part
from hnm.evidence.measure import instance_part
from hnm.statistics.bootstrap import interval_of_draws, resampled_weights
from hnm.statistics.metrics import auc
from shards.errors import InputError
from tests.hnm.evidence.test_detect import heat, study_on_a_grid
from tests.hnm.evidence.test_measure import with_truth
from tests.hnm.worlds import tables_only_study


def run_of(name: str, scores: np.ndarray, seed: int = 0, **parts: Callable[..., Any]) -> OpenedRun:
    """Return a run as `hnm evaluate` leaves it, of the study of the tables or of the grid."""
    study = study_on_a_grid() if "froc" in parts else tables_only_study()
    metrics = {part: measure(scores, study, seed) for part, measure in parts.items()}
    return OpenedRun(Path(name), study, scores, metrics)


def two_instances() -> tuple[OpenedRun, OpenedRun]:
    """Return two runs with the same study; the second scores better."""
    truth = tables_only_study().cohort.patches.truth
    random = np.random.default_rng(0)
    weak, strong = (random.normal(size=len(truth)) + signal * truth for signal in (0.5, 2.0))
    return run_of("weak", weak, instance=instance_part), run_of("strong", strong, instance=instance_part)


def test_the_difference_is_that_of_the_same_resamples() -> None:
    a, b = two_instances()
    found = compare_instance(a, b, seed=5)
    study = a.study
    weights = resampled_weights(study.patients_of(study.test), seed=5)
    ids = study.patches_of(study.test)
    row = np.searchsorted(study.test, study.cohort.patches.slide[ids])
    truth, differences = study.cohort.patches.truth[ids], []
    for draw in weights:
        chosen = np.repeat(np.arange(len(ids)), draw[row])
        both = [auc(truth[chosen], run.by_patch[ids][chosen]) for run in (a, b)]
        if both[0] is not None and both[1] is not None:
            differences.append(both[1] - both[0])
    figure = found["instance auc"]
    expected = interval_of_draws(differences, 1000)
    assert figure["difference_interval"] == pytest.approx(expected._asdict())
    assert 0 < expected.num_skipped < 200  # four slides: a draw may take negative ones only
    assert figure["difference"] == b.metrics["instance"]["auc"] - a.metrics["instance"]["auc"] > 0
    same_seed = compare_instance(a, b, seed=0)["instance auc"]
    assert same_seed["a_interval"] == a.metrics["instance"]["intervals"]["auc"]  # those of metrics.json
    nothing = compare_instance(a, a)
    assert set(nothing) == {f"instance {name}" for name in a.metrics["instance"]} - {"instance threshold", "instance intervals"}
    assert all(figure["difference_interval"]["low"] == 0 == figure["difference_interval"]["high"] for figure in nothing.values())


def test_the_froc_score_too() -> None:
    study = study_on_a_grid()
    scores = heat(study, {(4, 1, 2): 0.9, (4, 4, 4): 0.8, (5, 4, 4): 0.7}), heat(study, {(4, 1, 2): 0.9, (4, 6, 6): 0.8})
    a, b = (run_of(name, its, froc=froc_part) for name, its in zip("ab", scores, strict=True))
    figure = compare_froc(a, b)["froc score"]
    assert figure["a_interval"] == a.metrics["froc"]["interval"]
    assert figure["difference"] == b.metrics["froc"]["score"] - a.metrics["froc"]["score"]
    weights = resampled_weights(study.patients_of(study.test), seed=0)
    without_lesion = (weights @ study.labels[study.test] == 0).sum()
    assert figure["difference_interval"]["num_skipped"] == without_lesion > 0
    assert figure["difference_interval"]["low"] < figure["difference"] < figure["difference_interval"]["high"]
    changed = replace(a, metrics={"froc": a.metrics["froc"] | {"score": 0.123}})
    with pytest.raises(InputError, match=r"FROC comes out otherwise.*annotations that cohort/slides.parquet names"):
        compare_froc(changed, b)
    gone = replace(a, study=with_truth(study, np.full_like(study.cohort.patches.truth, -1)))
    with pytest.raises(InputError, match="FROC comes out otherwise"):
        compare_froc(gone, replace(b, study=gone.study))


def test_what_metrics_json_says_by_itself() -> None:
    a, b = two_instances()
    older = {"instance": {name: its for name, its in b.metrics["instance"].items() if name != "intervals"}}
    told = told_by_metrics(a.metrics, older)["instance in_positive_auc"]
    assert told["a_interval"] == a.metrics["instance"]["intervals"]["in_positive_auc"]
    assert told["b_interval"]["low"] is told["difference_interval"]["low"] is None
    assert told["difference"] == told["b"] - told["a"]
    assert told_by_metrics(a.metrics, {"instance": None, "froc": None}) == {}
    assert compare_instance(a, replace(b, metrics={"instance": None})) == compare_froc(a, b) == {}


def test_other_patches_are_refused() -> None:
    a, b = two_instances()
    other = with_truth(b.study, 1 - b.study.cohort.patches.truth)
    for study in (other, replace(b.study, test=b.study.test[1:])):
        with pytest.raises(InputError, match=r"of two cohorts, cohort and cohort, or of other patches of one \(data"):
            compare_instance(a, replace(b, study=study))
    with pytest.raises(InputError, match=r"strong/patch_scores.npy: 10 scores for the \d+ patches of cohort"):
        compare_instance(a, replace(b, by_patch=b.by_patch[:10]))
