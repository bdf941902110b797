"""Drift and colours: against SciPy and by hand, and that slides of one patient are no evidence of their own."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from hnm.statistics.colour import COLOURS, ColourCounts
from hnm.statistics.drift import evenly_chosen, shift_of
from shards.tiling.stain import LIGHT, REFERENCE_STAINS


def test_a_shift_is_that_of_kolmogorov_and_smirnov() -> None:
    random = np.random.default_rng(0)
    then, now = random.normal(0, 1, 80), random.normal(0.6, 1, 60)
    shift, known = shift_of(then, now), ks_2samp(then, now, method="asymp")
    assert shift is not None
    assert shift.distance == pytest.approx(known.statistic)
    assert shift.p == pytest.approx(known.pvalue, rel=0.25)  # SciPy's p has a correction for few values
    assert shift.in_deviations == pytest.approx((now.mean() - then.mean()) / then.std())
    fewer = shift_of(then, now, num_now=6)  # ten slides of each of six patients
    assert fewer is not None
    assert fewer.distance == shift.distance
    assert fewer.p > 0.05 > shift.p
    assert shift_of(then, np.array([])) is None
    constant = shift_of(np.ones(5), now)
    assert constant is not None
    assert constant.in_deviations is None


def test_few_values_stand_for_many() -> None:
    values = np.random.default_rng(1).random(5000)
    few = evenly_chosen(values, 1000)
    assert len(few) == 1000
    assert few == sorted(few)
    assert few[0] == pytest.approx(values.min(), abs=1e-6)
    assert np.median(few) == pytest.approx(np.median(values), abs=1e-3)
    assert evenly_chosen(np.array([0.5]), 10) == [0.5]
    assert evenly_chosen(np.array([]), 10) == []


def test_colours_by_hand() -> None:
    counts = ColourCounts()
    assert counts.figures() == {}
    light = np.rint(LIGHT * np.exp(-1.5 * REFERENCE_STAINS[0])).astype(np.uint8)  # 1.5 of haematoxylin, nothing of eosin
    counts.add(np.broadcast_to(light, (2, 16, 16, 3)))
    figures = counts.figures()
    assert list(figures) == list(COLOURS)
    assert [figures[name] for name in COLOURS[:6]] == [*light.tolist(), 0, 0, 0]
    assert figures["haematoxylin"] == pytest.approx(1.5, abs=0.02)
    assert figures["eosin"] == pytest.approx(0, abs=0.02)
    counts.add(np.zeros((2, 16, 16, 3), np.uint8))
    assert counts.figures()["red_mean"] == pytest.approx(light[0] / 2)
    assert counts.figures()["red_deviation"] == pytest.approx(light[0] / 2)
