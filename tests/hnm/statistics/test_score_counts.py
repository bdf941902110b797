import numpy as np
import pytest

import hnm.statistics.metrics as module
from hnm.statistics.metrics import NUM_BINS, score_counts


def test_counts_are_numpys_for_each_kind_and_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    scores = random.random(500).astype(np.float32)
    scores[:40], scores[40:60], scores[60:70] = np.nan, 1, 0
    kinds = random.integers(-1, 3, 500).astype(np.int8)
    edges = np.linspace(0, 1, NUM_BINS + 1)
    expected = [np.histogram(scores[(kinds == kind) & np.isfinite(scores)], edges)[0] for kind in range(3)]
    for chunk in (7, 10_000):
        monkeypatch.setattr(module, "CHUNK", chunk)
        np.testing.assert_array_equal(score_counts(scores, kinds, 3), expected)
