import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnm.encoder.finetune import negatives_of_epoch
from hnm.mining.mining import Mined, MiningConfig, choose, keep_old_labels, label, self_paced_ratio, smooth_scores
from hnm.mining.ranking import by_score, count_of_share, mark_top_of_slides, top_share
from tests.paths import GOLDEN

floats = st.lists(st.integers(0, 20).map(lambda value: value / 20), min_size=1, max_size=60)
shares = st.floats(0.01, 1.0)


@pytest.fixture
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "mining.npz"))


def mine(scores: np.ndarray, kinds: np.ndarray, bounds: np.ndarray, config: MiningConfig) -> Mined:
    return label(choose(scores, kinds, bounds, config), kinds, config.hard_share)


def one_slide(scores: np.ndarray) -> np.ndarray:
    return np.array([0, len(scores)])


def golden_set(golden: dict[str, np.ndarray], **config: object) -> Mined:
    settings_ = MiningConfig.model_validate(
        {"ties": "keep", "positive_threshold": float(golden["threshold"]), **config}
    )
    return mine(golden["score"], golden["bag_label"].astype(np.int8), one_slide(golden["score"]), settings_)


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
    kinds = np.array([1, 1, 1, 0, 0, 0, -1], np.int8)  # the last does not train
    mined = mine(scores, kinds, one_slide(scores), MiningConfig(neg_ratio=0.3, positive_threshold=0.3))
    assert mined.pseudo_labels.tolist() == [1, 0, 1, 0, 0, 0, -1]
    assert mined.candidates.tolist() == [0, 2]
    assert mined.negatives.tolist() == [3]  # ceil(0.3 * 3) = 1; the tie at 0.4 goes to the lower id
    assert mined.weights.tolist() == [1, 0, 1, 1, 0, 0, 0]
    config = MiningConfig(neg_ratio=0.3, positive_threshold=0.3, hard_share=0.5)
    graded = mine(scores, kinds, one_slide(scores), config)  # 1 is uncertain, 6 does not train: neither has a weight
    assert graded.weights.tolist() == [1, 0, 1, 1, 0.5, 0.5, 0]
    assert graded.negatives.tolist() == [3]
    uniform = mine(scores, kinds, one_slide(scores), config.model_copy(update={"hard_share": 0.1}))
    assert uniform.weights[4] == 1  # less than by chance is no preference, and hard ones are still told
    assert uniform.negatives.tolist() == [3]
    every = mine(scores, kinds, one_slide(scores), config.model_copy(update={"neg_ratio": 1.0}))
    assert every.negatives.tolist() == [3, 4, 5]


@pytest.mark.parametrize("neg_ratio", [0.02, 0.05, 0.2])
def test_the_share_of_hard_ones_is_the_same_at_every_ratio(neg_ratio: float) -> None:
    scores = np.random.default_rng(0).random(20_000, np.float32)
    mined = mine(scores, np.zeros(20_000, np.int8), one_slide(scores), MiningConfig(neg_ratio=neg_ratio, hard_share=0.3333))
    hard, generator = mined.negatives, np.random.default_rng(1)
    shares = [np.isin(negatives_of_epoch(mined, generator), hard).mean() for _ in range(20)]
    assert 0.29 < np.mean(shares) < 0.34


@given(floats, shares)
def test_exact_share_takes_the_stated_count_of_the_highest(values: list[float], share: float) -> None:
    scores = np.array(values, np.float32)
    chosen = top_share(scores, share, "exact")
    assert len(chosen) == count_of_share(share, len(scores))
    expected = np.lexsort((np.arange(len(scores)), -scores))[: len(chosen)]  # score, then lower position
    np.testing.assert_array_equal(chosen, np.sort(expected))


@given(floats, shares)
def test_keeping_ties_takes_no_patch_that_scores_below_one_left_out(values: list[float], share: float) -> None:
    scores = np.array(values, np.float64)
    chosen = top_share(scores, share, "keep")
    left_out = np.setdiff1d(np.arange(len(scores)), chosen)
    assert len(chosen) >= 1
    if 1e-6 < share * (len(scores) - 1) % 1 < 1 - 1e-6:  # the quantile is no score itself, where rounding dust decides
        np.testing.assert_array_equal(chosen, np.flatnonzero(scores >= np.quantile(scores, 1 - share)))
    assert len(left_out) == 0 or scores[chosen].min() > scores[left_out].max()


@given(st.floats(0.0, 1.0), st.integers(0, 10**8))
def test_count_of_share_is_within_the_total(share: float, total: int) -> None:
    assert 0 <= count_of_share(share, total) <= total
    assert abs(count_of_share(share, total) - share * total) <= 1


def test_rounding_dust_adds_no_patch() -> None:
    assert count_of_share(0.1, 30) == 3  # 0.1 * 30 = 3.0000000000000004


def test_empty_sets_stay_empty() -> None:
    assert len(top_share(np.empty(0), 0.5, "exact")) == 0
    for kind in (-1, 0, 1):
        config = MiningConfig(mask_uncertain_negatives=False, ties="keep", neg_ratio=0.5)
        mined = mine(np.zeros(3, np.float32), np.full(3, kind, np.int8), np.array([0, 3]), config)
        assert (len(mined.negatives), len(mined.candidates)) == (0 if kind == -1 else 3, 0)  # ties are kept


def test_ranking_changes_no_score() -> None:
    scores = np.random.default_rng(0).random(100, np.float32)
    scores.setflags(write=False)  # as a memory map
    for config in (MiningConfig(mask_uncertain_negatives=False), MiningConfig(candidates_per_slide=0.1)):
        mine(scores, np.repeat([1, -1, 0, 1], 25).astype(np.int8), np.arange(0, 101, 25), config)


def test_candidates_come_hardest_first_then_by_id() -> None:
    scores = np.array([0.5, 0.9, 0.5, 0.2])
    assert by_score(np.array([0, 1, 2]), scores).tolist() == [1, 0, 2]


def test_every_positive_slide_has_candidates_of_its_own() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.1, 0.05, 0.05, 0.5, 0.4], np.float32)
    kinds = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0], np.int8)
    bounds = np.array([0, 4, 4, 7, 9])  # slides of 4, no, 3 and 2 patches
    half = mine(scores, kinds, bounds, MiningConfig(candidates_per_slide=0.5, positive_threshold=0.3))
    assert half.candidates.tolist() == [0, 1, 4, 5]  # the best two of each, far below the threshold too; ties by id
    one = mine(scores, kinds, bounds, MiningConfig(candidates_per_slide=0.01))
    assert one.candidates.tolist() == [0, 4]
    assert one.pseudo_labels.tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 0]
    assert mine(scores, kinds, bounds, MiningConfig(positive_threshold=0.3)).candidates.tolist() == [0, 1, 2, 3]


@given(st.lists(floats, min_size=1, max_size=6), shares)
def test_the_share_of_slides_is_the_share_of_each(slides: list[list[float]], share: float) -> None:
    scores, bounds = np.concatenate(slides).astype(np.float32), np.cumsum([0, *map(len, slides)])
    chosen = mark_top_of_slides(scores, np.ones(len(scores), bool), bounds, share, "exact")
    single = [top_share(np.array(slide, np.float32), share, "exact") for slide in slides]
    expected = [start + positions for start, positions in zip(bounds[:-1], single, strict=True)]
    np.testing.assert_array_equal(np.flatnonzero(chosen), np.concatenate(expected))


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
