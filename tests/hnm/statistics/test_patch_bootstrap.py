"""Intervals from counts against a plain bootstrap of the patches with scikit-learn, on the same resamples."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

import hnm.statistics.patch_bootstrap as module
from hnm.statistics.bootstrap import bootstrap_intervals, intervals_of, resampled_weights
from hnm.statistics.metrics import Figures
from hnm.statistics.patch_bootstrap import count_scores, figures_of_draws, score_edges

NUM_SLIDES, NUM_DRAWS, THRESHOLD = 16, 25, 0.55
SLIDE_LABELS = np.arange(NUM_SLIDES) % 2
PATIENTS = np.array([f"p{slide // 2}" for slide in range(NUM_SLIDES)])  # a positive and a negative slide each


def drawn(num: int, decimals: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return truth, scores and slide of patches; one in ten is of unknown truth."""
    random = np.random.default_rng(0)
    slide = np.sort(random.integers(0, NUM_SLIDES, num)).astype(np.int32)
    truth = ((SLIDE_LABELS[slide] == 1) & (random.random(num) < 0.3)).astype(np.int8)
    scores = 1 / (1 + np.exp(-random.normal(1.5 * truth + 0.5 * random.normal(size=NUM_SLIDES)[slide])))
    truth[random.random(num) < 0.1] = -1
    return truth, np.round(scores, decimals).astype(np.float32), slide


def by_patch(truth: np.ndarray, scores: np.ndarray, slide: np.ndarray, slides: np.ndarray) -> Figures:
    """Return scikit-learn's figures of the patches of `slides`, drawn ones repeat."""
    figures: Figures = {}
    for prefix, chosen in (("", slides), ("in_positive_", slides[SLIDE_LABELS[slides] == 1])):
        rows = np.concatenate([np.flatnonzero((slide == its) & (truth >= 0)) for its in chosen])
        figures[f"{prefix}auc"] = float(roc_auc_score(truth[rows], scores[rows]))
        figures[f"{prefix}auprc"] = float(average_precision_score(truth[rows], scores[rows]))
        figures[f"{prefix}f1"] = float(f1_score(truth[rows], scores[rows] >= THRESHOLD))
    return figures


@pytest.mark.parametrize(("decimals", "num_edges", "share"), [(2, 512, 0), (7, 64, 1 / 63)])
def test_intervals_are_those_of_a_plain_bootstrap_of_the_patches(
    decimals: int, num_edges: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NUM_EDGES", num_edges)  # few distinct scores: exact; few bins: to what a bin may hold
    truth, scores, slide = drawn(1500, decimals)
    expected = bootstrap_intervals(
        lambda rows: by_patch(truth, scores, slide, rows), SLIDE_LABELS, PATIENTS, NUM_DRAWS, seed=3
    )
    weights = resampled_weights(PATIENTS, NUM_DRAWS, seed=3)
    counts = count_scores(truth, scores, slide, NUM_SLIDES, THRESHOLD)
    found = intervals_of(figures_of_draws(counts, weights, SLIDE_LABELS == 1))
    assert list(found) == list(expected)
    for name, interval in found.items():
        slack = share * (0 if name.endswith("f1") else 0.5 if name.endswith("auc") else 1)
        np.testing.assert_allclose(interval, expected[name], atol=slack + 1e-12, rtol=0, err_msg=name)
        assert interval.num_skipped == 0


def test_counts_do_not_depend_on_the_chunk_and_know_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, scores, slide = drawn(500, 7)
    whole = count_scores(truth, scores, slide, NUM_SLIDES, float(scores[7]))
    monkeypatch.setattr(module, "CHUNK", 33)
    for one, other in zip(whole, count_scores(truth, scores, slide, NUM_SLIDES, float(scores[7])), strict=True):
        np.testing.assert_array_equal(one, other)
    for label, counts in ((1, whole.positives), (0, whole.negatives)):
        np.testing.assert_array_equal(counts.sum(1), np.bincount(slide[truth == label], minlength=NUM_SLIDES))
        assert counts[:, whole.first_called :].sum() == np.sum(scores[truth == label] >= scores[7])


def test_bins_hold_a_small_share_of_either_class_and_keep_classes_apart_that_scores_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NUM_EDGES", 11)
    random = np.random.default_rng(1)
    truth = (np.arange(2000) < 100).astype(np.int8)  # few positives, and all above the negatives
    scores = random.random(2000) + truth
    assert len(score_edges(truth, scores, 0.5)) == 11 + 11 + 1
    counts = count_scores(truth, scores, np.zeros(2000, np.int32), 1, 0.5)
    assert counts.positives.max() == pytest.approx(10, abs=1)
    assert counts.negatives.max() <= 191
    figures = figures_of_draws(counts, np.ones((1, 1), np.int64), np.array([True]))
    assert figures["auc"] == figures["in_positive_auprc"] == 1


def test_a_draw_of_one_class_is_left_out_and_counted() -> None:
    truth, scores = np.array([1, 0, 0, 0, -1], np.int8), np.array([0.9, 0.2, 0.4, 0.1, 0.5])
    counts = count_scores(truth, scores, np.array([0, 0, 1, 1, 1]), 2, 0.3)
    draws = figures_of_draws(counts, np.array([[1, 1], [0, 2], [2, 0]]), np.array([True, False]))
    np.testing.assert_array_equal(draws["auc"], [1, np.nan, 1])
    np.testing.assert_array_equal(draws["f1"], [2 / 3, np.nan, 1])  # a third and a second patch called; none is to find
    intervals = intervals_of({**draws, "never": np.full(3, np.nan)})
    assert intervals["in_positive_auc"] == (1, 1, 1)
    assert intervals["never"] == (None, None, 3)
