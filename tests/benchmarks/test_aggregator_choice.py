"""benchmarks.aggregator_choice on features of a small cohort: who judges whom, what is kept, and the table."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.aggregator_choice import compare, parts_of_fold, summary, table
from hnm.aggregator.aggregate import AggregateConfig
from hnm.aggregator.bags import Bags
from hnm.engine.ranks import single_world
from tests.hnm.worlds import SessionWithFeatures, session_with_features

FOLDS = [(0, 0), (0, 1), (0, 2)]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> SessionWithFeatures:
    return session_with_features(single_world(), str(tmp_path_factory.mktemp("features")))


def test_every_slide_but_those_of_the_test_judges_once_and_never_its_own_training(session: SessionWithFeatures) -> None:
    judges = []
    for fold in FOLDS:
        study, judged = parts_of_fold(session.study, 3, fold)
        parts = [study.train, study.validation, judged]
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), session.study.embedded_slides)
        assert all(set(study.labels[part]) == {0, 1} for part in parts)
        assert len(study.test) == 0
        judges.append(judged)
    np.testing.assert_array_equal(np.sort(np.concatenate(judges)), session.study.embedded_slides)


def test_kinds_are_compared_on_the_same_folds_and_finished_ones_are_kept(
    session: SessionWithFeatures, tmp_path: Path
) -> None:
    bags, partial = Bags(session.features, torch.device("cpu")), tmp_path / "partial.json"
    config = AggregateConfig(epochs=5, lr=1e-2, pairs_per_step=4, validate_every=5, ranking_weight=0.0)
    configs = {kind: config.model_copy(update={"kind": kind}) for kind in ("abmil_gated", "mean")}
    found = compare(session.study, bags, configs, FOLDS, 3, partial)
    assert {len(figures) for figures in found.values()} == {3}
    kept = json.loads(partial.read_text())
    kept["found"]["mean"]["repeat-0-fold-1"]["slide_auc"] = 0.25  # what is kept is not done again
    partial.write_text(json.dumps(kept))
    again = compare(session.study, bags, configs, FOLDS, 3, partial)
    assert again["mean"]["repeat-0-fold-1"]["slide_auc"] == 0.25
    told = summary(again, 3)
    by_hand = [again["mean"][f][name] - again["abmil_gated"][f][name] for f in found["mean"] for name in ("patch_auc",)]
    assert told["mean"]["minus_first"]["patch_auc"]["mean"] == pytest.approx(np.mean(by_hand))
    assert told["abmil_gated"]["patch_auc"]["mean"] > 0.8  # these features can be told apart
    assert table(told).splitlines()[3].startswith(f"| mean | {told['mean']['slide_auc']['mean']:.3f} (")
    others = {"mean": configs["mean"].model_copy(update={"epochs": 1})}
    assert compare(session.study, bags, others, FOLDS[:1], 3, partial)["mean"].keys() == {"repeat-0-fold-0"}  # other settings
