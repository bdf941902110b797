"""What a cross-validation is warned of: its own intervals without width, not those of single folds."""

from pathlib import Path

import numpy as np

from hnm.evidence.crossval import summarise
from hnm.evidence.evaluate import read_metrics
from hnm.report.crossval_report import CrossvalRecord, warnings_of_crossval
from shards.files import write_json
from tests.hnm.evidence.test_compare_crossval import LABELS, NUM, NUM_FOLDS, NUM_REPEATS, SLIDE_IDS, write_crossval
from tests.tiny import tiny_config


def test_intervals_without_width_are_told_of_the_whole_and_not_of_a_fold(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    scores = 0.6 * LABELS + random.uniform(0, 0.3, (NUM_REPEATS, NUM))  # 0.5 parts some, and AUC is 1 everywhere
    write_crossval(tmp_path, scores)
    runs = {key: tmp_path / f"repeat-{key[0]}" / f"fold-{key[1]}" for key in np.ndindex(NUM_REPEATS, NUM_FOLDS)}
    write_json(runs[0, 1] / "metrics.json", read_metrics(runs[0, 1]) | {"warnings": ["own."], "interval_warnings": ["noise."]})
    metrics, predictions = summarise(runs, NUM_FOLDS, seed=0)
    assert metrics["out_of_fold"]["auc"]["low"] == metrics["out_of_fold"]["auc"]["high"] == 1
    assert metrics["mean"]["slide auc"]["low"] == metrics["mean"]["slide auc"]["high"] == 1
    assert metrics["mean"]["slide brier"]["low"] < metrics["mean"]["slide brier"]["high"]
    record = CrossvalRecord(tmp_path, tiny_config(), {}, metrics, predictions, runs, SLIDE_IDS)
    start, pooled, means, fold = warnings_of_crossval(record)
    assert "round 0 was chosen" in start
    assert pooled.startswith("All 12 positive slides out of fold score higher than all 12 negative ones (AUC 1)")
    assert "a true AUC of 0.54 this" in pooled  # 12 patients with a slide of each kind: 6 disjoint pairs
    assert means.startswith("All folds have the same slide auc, slide auprc")
    assert "brier" not in means
    assert fold == "repeat 0, fold 1: own."
    older = {name: value for name, value in metrics.items() if name != "interval_warnings"}
    record = CrossvalRecord(tmp_path, tiny_config(), {}, older, predictions, runs, SLIDE_IDS)
    assert warnings_of_crossval(record) == [start, fold]
