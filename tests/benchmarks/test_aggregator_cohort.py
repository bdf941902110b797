"""benchmarks.aggregator --cohort-size and --witness on a few small bags."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.aggregator_cohort import (
    COHORT,
    Drawn,
    Size,
    draw_slides,
    epoch_on_rank,
    estimate,
    witness_arm,
    write_features,
)
from hnm.engine.ranks import single_world

SIZE = Size(slides=4, different=2, patches=50, dim=8, most=10)


def test_an_epoch_is_measured_and_a_cohort_estimated_from_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_features(tmp_path, SIZE)
    assert len(list(tmp_path.glob("rows-*.npy"))) == 4
    assert len({path.stat().st_ino for path in tmp_path.glob("rows-*.npy")}) == 2
    measured = epoch_on_rank(single_world(), str(tmp_path), SIZE, "dsmil", 1, SIZE.most)
    assert measured["seconds"] > 0
    assert measured["private_mb"] > 10
    scoring = {"slide": 2.0, "patches": 1.0}
    scoring = {"slide": 2.0, "patches": 1.0}
    found = {"kind": "dsmil", "members": 2, "capped_1": {"seconds": 4.0}, "scoring_seconds_per_1e6": scoring}
    said = estimate(found, SIZE)
    steps = -(-int(COHORT["slides"] * 0.35) // 64)
    assert said["train"] == pytest.approx(20 * steps * 2.005, abs=1)  # 4 s for 2 pairs, 5 ms of delay; 20 epochs
    assert said["scoring"] == pytest.approx(2 * 110 * 3 / 64, abs=1)  # two members, 1.1 x 10^8 patches
    assert f"= {steps} steps" in capsys.readouterr().out


def test_drawn_witnesses_are_found_by_training(tmp_path: Path) -> None:
    drawn = Drawn((10, 6, 6), patches=60, most=30, dim=4, epochs=12, seeds=1, witness=0.1, tissues=2, shift=8.0)
    labels, truth = draw_slides(tmp_path, drawn, 0)
    per_slide = truth.reshape(22, 60).sum(1)
    assert (per_slide[labels == 1] >= 1).all()
    assert per_slide[labels == 0].sum() == 0
    figures = witness_arm(tmp_path, labels, truth, drawn, 0, kind="max", max_patches=30, lr=1e-2)
    assert np.isfinite(figures["slide_auc"])
    assert figures["patch_auc"] > 0.8
