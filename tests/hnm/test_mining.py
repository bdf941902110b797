import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm.mining import (
    Mined,
    MiningConfig,
    confident_negatives,
    count_of_share,
    hard_negatives,
    keep_old_labels,
    mine,
    positive_candidates,
    self_paced_ratio,
    smooth_scores,
    top_share,
)
from tests.paths import GOLDEN

floats = st.lists(st.integers(0, 20).map(lambda value: value / 20), min_size=1, max_size=60)
shares = st.floats(0.01, 1.0)


@pytest.fixture
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "mining.npz"))


def golden_set(golden: dict[str, np.ndarray], **config: object) -> Mined:
    slides, patch_slide = np.unique(golden["slide"], return_inverse=True)
    labels = np.zeros(len(slides), np.int8)
    labels[patch_slide] = golden["bag_label"]
    settings_ = MiningConfig.model_validate({"ties": "keep", "positive_threshold": float(golden["threshold"]), **config})
    return mine(golden["score"], patch_slide, np.ones(len(slides), bool), labels, settings_)


@pytest.mark.parametrize("ratio", [0.05, 0.2, 1.0])
def test_hard_negatives_match_the_reference_program(golden: dict[str, np.ndarray], ratio: float) -> None:
    mined = golden_set(golden, neg_ratio=ratio)
    np.testing.assert_array_equal(mined.negatives, golden[f"hard_negatives_ratio{ratio}"])


def test_all_negatives_match_the_reference_program(golden: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(golden_set(golden, neg_ratio=1.0).negatives, golden["negatives_all"])


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
def test_positives_match_the_reference_program(golden: dict[str, np.ndarray], ratio: float) -> None:
    mined = golden_set(golden)
    np.testing.assert_array_equal(np.sort(mined.candidates), golden["positives_full"])
    np.testing.assert_array_equal(np.sort(mined.self_paced(ratio, "keep")), golden[f"positives_ratio{ratio}"])


@pytest.mark.parametrize("ratio", [0.2, 0.6])
def test_confident_patches_of_positive_slides_match_the_reference_program(
    golden: dict[str, np.ndarray], ratio: float
) -> None:
    mined = golden_set(golden, mask_uncertain_negatives=False, uncertain_ratio=ratio)
    expected = golden[f"negatives_with_confident_from_positive_bags_ratio{ratio}"]
    np.testing.assert_array_equal(mined.negatives, np.sort(expected))


def test_self_paced_schedule_matches_the_reference_program() -> None:
    golden = json.loads((GOLDEN / "self_paced_schedule.json").read_text())
    for epoch, ratio in golden["ratio_at_epoch"].items():
        ours = self_paced_ratio(int(epoch), golden["warmup"], golden["epochs"], golden["r0"], golden["rT"])
        assert ours == pytest.approx(ratio, abs=1e-12)


def test_the_schedule_of_a_run_that_ends_with_its_warm_up() -> None:
    assert self_paced_ratio(5, 5, 5, 0.2, 0.8) == 0.2


def test_mining_by_hand() -> None:
    scores = np.array([0.9, 0.2, 0.5, 0.4, 0.4, 0.1, 0.7], np.float32)
    slide = np.array([0, 0, 0, 1, 1, 2, 3], np.int32)  # slide 3 does not train
    training, labels = np.array([True, True, True, False]), np.array([1, 0, 0, 0], np.int8)
    mined = mine(scores, slide, training, labels, MiningConfig(neg_ratio=0.3, positive_threshold=0.3))
    assert mined.pseudo_labels.tolist() == [1, 0, 1, 0, 0, 0, -1]
    assert mined.candidates.tolist() == [0, 2]
    assert mined.negatives.tolist() == [3]  # ceil(0.3 * 3) = 1; the tie at 0.4 goes to the lower id
    assert mined.weights.tolist() == [1, 0, 1, 1, 0, 0, 0]


@settings(deadline=None)
@given(floats, shares)
def test_exact_share_takes_the_stated_count_of_the_highest(values: list[float], share: float) -> None:
    scores = np.array(values, np.float32)
    chosen = top_share(scores, share, "exact")
    assert len(chosen) == count_of_share(share, len(scores))
    expected = np.lexsort((np.arange(len(scores)), -scores))[: len(chosen)]  # score, then lower position
    np.testing.assert_array_equal(chosen, np.sort(expected))


@settings(deadline=None)
@given(floats, shares)
def test_keeping_ties_takes_no_patch_that_scores_below_one_left_out(values: list[float], share: float) -> None:
    scores = np.array(values, np.float64)
    chosen = top_share(scores, share, "keep")
    left_out = np.setdiff1d(np.arange(len(scores)), chosen)
    assert len(chosen) >= 1
    assert len(left_out) == 0 or scores[chosen].min() > scores[left_out].max()


@given(st.floats(0.0, 1.0), st.integers(0, 10**8))
def test_count_of_share_is_within_the_total(share: float, total: int) -> None:
    assert 0 <= count_of_share(share, total) <= total
    assert abs(count_of_share(share, total) - share * total) <= 1


def test_rounding_dust_adds_no_patch() -> None:
    assert count_of_share(0.1, 30) == 3  # 0.1 * 30 = 3.0000000000000004


def test_empty_sets_stay_empty() -> None:
    none = np.empty(0, np.int64)
    assert len(top_share(np.empty(0), 0.5, "exact")) == 0
    assert len(hard_negatives(np.zeros(3), none, 0.5, "keep")) == 0
    assert len(positive_candidates(np.zeros(3), np.arange(3), 0.3)) == 0
    assert len(confident_negatives(np.zeros(3), none, 0.5, "exact")) == 0


def test_candidates_come_hardest_first_then_by_id() -> None:
    scores = np.array([0.5, 0.9, 0.5, 0.2])
    assert positive_candidates(scores, np.arange(4), 0.3).tolist() == [1, 0, 2]


def test_moving_average_of_scores() -> None:
    new = np.array([1.0, 0.0], np.float32)
    np.testing.assert_array_equal(smooth_scores(None, new, 0.3), new)
    smoothed = smooth_scores(np.array([0.0, 1.0], np.float32), new, 0.3)
    assert smoothed.dtype == np.float32
    np.testing.assert_allclose(smoothed, [0.7, 0.3], rtol=1e-6)


def test_labels_are_kept_only_while_the_validation_f1_falls_short() -> None:
    assert not keep_old_labels(0.5, None, gate=True)
    assert keep_old_labels(0.5, 0.6, gate=True)
    assert not keep_old_labels(0.6, 0.6, gate=True)
    assert not keep_old_labels(0.5, 0.6, gate=False)
