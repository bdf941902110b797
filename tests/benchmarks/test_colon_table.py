"""The rows of benchmarks.colon: means over folds, and what each fold says."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.colon_table import rows_of


def write_fold(folder: Path, slide_auc: float, instance_auc: float | None, **more: Any) -> None:
    folder.mkdir(parents=True)
    sections = {"slide": {"auc": slide_auc}, "instance": {"auc": instance_auc}}
    (folder / "metrics.json").write_text(json.dumps({**sections, "encoder_steps": 3, "seconds": 1.5, **more}))


def test_a_row_tells_each_fold_in_the_order_of_repeats_and_folds(tmp_path: Path) -> None:
    for repeat in range(2):
        for fold in range(11):
            of_patches = None if fold == 9 else 0.05 * fold
            write_fold(tmp_path / f"hnm/repeat-{repeat}/fold-{fold}", repeat + fold / 100, of_patches, chosen_round=fold % 3)
    write_fold(tmp_path / "abmil/repeat-0/fold-0", 0.5, 0.25)
    rows = rows_of({"hnm": tmp_path / "hnm", "abmil": tmp_path / "abmil"}, num_folds=11)
    by_fold = rows["hnm"]["by_fold"]
    assert by_fold["fold"] == [f"repeat-{repeat}/fold-{fold}" for repeat in range(2) for fold in range(11)]
    assert by_fold["slide auc"] == [repeat + fold / 100 for repeat in range(2) for fold in range(11)]
    assert by_fold["instance auc"][8:11] == [0.4, None, 0.5]
    assert by_fold["chosen_round"] == [fold % 3 for fold in range(11)] * 2
    known = [value for value in by_fold["instance auc"] if value is not None]
    assert rows["hnm"]["instance auc"]["num"] == len(known) == 20
    assert rows["hnm"]["instance auc"]["mean"] == pytest.approx(sum(known) / 20)
    nothing = {"fold": ["repeat-0/fold-0"], "slide auc": [0.5], "instance auc": [0.25], "chosen_round": [None]}
    assert rows["abmil"]["by_fold"] == nothing
