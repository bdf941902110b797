"""Fine-tuning: its schedule, its plan, and the same course on any number of ranks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnm.encoder.contrastive_model import fresh_model
from hnm.encoder.finetune import FinetuneConfig, Step, learning_rate, plan_steps
from hnm.mining.mining import Mined, MiningConfig
from shards.reading.plan import PADDING, ids_of_rank
from tests.hnm.conftest import OnRanks
from tests.tiny import tiny_config

CONFIG = FinetuneConfig(warmup_epochs=2, batch_size=20, candidate_share=0.2, self_paced_share=0.1)
MINING = MiningConfig(self_paced_start=0.2, self_paced_end=0.8)


def mined_sets(num_negatives: int, num_candidates: int) -> Mined:
    """Negatives are the first ids, candidates the next ones, best first."""
    pseudo_labels = np.repeat(np.array([0, 1, -1], np.int8), [num_negatives, num_candidates, 5])
    candidates = num_negatives + np.arange(num_candidates)
    scores = np.linspace(1, 0.4, num_candidates, dtype=np.float32)
    return Mined(pseudo_labels, (pseudo_labels >= 0).astype(np.float16), np.arange(num_negatives), candidates, scores)


def test_learning_rate_by_hand() -> None:
    config = FinetuneConfig(lr=0.01, cosine_after_epoch=10)
    rates = [learning_rate(epoch, 30, config) for epoch in (0, 10, 15, 20, 25)]
    half = math.sqrt(0.5)
    assert rates == pytest.approx([0.01, 0.01, 0.005 * (1 + half), 0.005, 0.005 * (1 - half)], rel=1e-12)


@given(st.integers(0, 30), st.integers(1, 60))
def test_learning_rate_never_rises_nor_ends(start: int, num_epochs: int) -> None:
    config = FinetuneConfig(lr=0.01, cosine_after_epoch=start)
    rates = [learning_rate(epoch, num_epochs, config) for epoch in range(num_epochs)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 0.01
    assert rates[-1] > 0
    assert rates.count(0.01) == min(start + 1, num_epochs)


def test_warm_up_has_only_negative_steps_and_one_pass_over_the_negatives() -> None:
    mined = mined_sets(64, 10)
    for epoch in (0, 1):
        steps = plan_steps(mined, epoch, 10, CONFIG, MINING, seed=0)
        assert [step.pairs for step in steps] == ["negative"] * 4  # 16 negatives and 4 candidates in each
        ids = np.concatenate([step.row for step in steps])
        np.testing.assert_array_equal(np.sort(ids[ids < 64]), np.arange(64))
        assert all(np.count_nonzero(step.row >= 64) == 4 for step in steps)


@pytest.mark.parametrize(("epoch", "num_self_paced"), [(2, 2), (6, 5), (10, 8)])
def test_from_the_warm_up_epoch_on_steps_alternate_and_anchors_grow(epoch: int, num_self_paced: int) -> None:
    steps = plan_steps(mined_sets(640, 10), epoch, 10, CONFIG, MINING, seed=0)
    assert [step.pairs for step in steps] == ["negative", "positive"] * 40
    positive_rows = np.stack([step.row for step in steps if step.pairs == "positive"])
    assert (np.count_nonzero(positive_rows >= 640, axis=1) == 2).all()
    drawn = np.unique(positive_rows[positive_rows >= 640])
    np.testing.assert_array_equal(drawn, 640 + np.arange(num_self_paced))  # the best of the candidates, all of them


def drawn_negatives(steps: list[Step], num_negatives: int) -> set[int]:
    """The negatives of an epoch, if they are the first ids."""
    ids = np.concatenate([step.row for step in steps])
    return set(ids[(ids >= 0) & (ids < num_negatives)].tolist())


def test_easy_negatives_are_drawn_by_their_weight() -> None:
    mined = replace(mined_sets(90, 10), negatives=np.arange(30))  # the first 30 are hard
    mined.weights[30:90] = 0.5
    drawn = np.zeros(90, np.int64)
    for epoch in range(400):
        steps = plan_steps(mined, epoch % 2, 10, CONFIG, MINING, seed=epoch)
        ids = np.concatenate([step.row for step in steps])
        assert np.count_nonzero((ids >= 0) & (ids < 90)) == 30  # an epoch is no longer than without the easy ones,
        own = drawn_negatives(steps, 90)
        assert len(own) == 30  # and has none twice
        drawn[list(own)] += 1
    hard, easy = drawn[:30].mean(), drawn[30:].mean()
    assert 1.5 < hard / easy < 2  # less than twice as often: none is drawn twice, so the hard ones run short
    assert drawn[30:].min() > 40
    first, other = (drawn_negatives(plan_steps(mined, epoch, 10, CONFIG, MINING, seed=0), 90) for epoch in (0, 1))
    assert first != other  # each epoch draws anew
    steps = plan_steps(mined, 5, 10, CONFIG, MINING, seed=0)
    both = [drawn_negatives([step for step in steps if step.pairs == pairs], 90) for pairs in ("negative", "positive")]
    assert both[0] == both[1]  # both kinds of steps from one draw


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_only_ratios_of_weights_count(dtype: type) -> None:
    """Negatives of weights 0.9 at most fill the same epochs as those of 1."""
    mined = replace(mined_sets(90, 10), negatives=np.arange(30))
    mined.weights[30:90] = 0.5
    scaled = replace(mined, weights=mined.weights.astype(dtype) * dtype(0.875))  # 7/8: no rounding
    for epoch in (0, 5):
        both = [plan_steps(one, epoch, 10, CONFIG, MINING, seed=0) for one in (mined, scaled)]
        assert len(both[0]) == len(both[1]) > 0
        assert drawn_negatives(both[0], 90) == drawn_negatives(both[1], 90)
    whole = replace(scaled, negatives=np.arange(90))  # all are hard, of two weights: one pass over all of them
    assert drawn_negatives(plan_steps(whole, 0, 10, CONFIG, MINING, seed=0), 90) == set(range(90))


def test_without_candidates_there_are_only_negative_steps() -> None:
    steps = plan_steps(mined_sets(40, 0), 5, 10, CONFIG, MINING, seed=0)
    assert [step.pairs for step in steps] == ["negative"] * 2
    np.testing.assert_array_equal(np.sort(np.concatenate([step.row for step in steps])), np.arange(40))


@given(st.integers(20, 90), st.integers(0, 30), st.integers(0, 9), st.integers(1, 6), st.integers(0, 3))
def test_the_plan_depends_on_seed_and_epoch_but_not_on_ranks(
    num_negatives: int, num_candidates: int, epoch: int, size: int, seed: int
) -> None:
    mined = mined_sets(num_negatives, num_candidates)
    steps = plan_steps(mined, epoch, 10, CONFIG, MINING, seed)
    again = plan_steps(mined, epoch, 10, CONFIG, MINING, seed)
    assert all(np.array_equal(a.row, b.row) and a.pairs == b.pairs for a, b in zip(steps, again, strict=True))
    other = plan_steps(mined, epoch, 10, CONFIG, MINING, seed + 1)
    assert not all(np.array_equal(a.row, b.row) for a, b in zip(steps, other, strict=True))
    for step in steps:
        shares = [ids_of_rank(step.row, rank, size) for rank in range(size)]
        np.testing.assert_array_equal(np.concatenate(shares), step.row[step.row != PADDING])


def test_real_ranks_take_the_shares_of_one_plan(phases_on_ranks: OnRanks) -> None:
    (whole,) = phases_on_ranks(1)
    for size in (2, 3):
        results = phases_on_ranks(size)
        for step, expected in enumerate(whole["ids"]):
            np.testing.assert_array_equal(np.concatenate([result["ids"][step] for result in results]), expected)


@pytest.mark.parametrize("of", ["torch.float64", "joined"])
def test_two_and_three_ranks_follow_one(phases_on_ranks: OnRanks, of: str) -> None:
    num_steps, expected = phases_on_ranks(1)[0][of]
    start = fresh_model(tiny_config().encoder, seed=1).state_dict()
    assert num_steps == 8
    assert max(float((expected[name] - start[name]).abs().max()) for name in expected) > 1e-2
    for size in (2, 3):
        for result in phases_on_ranks(size):
            assert result[of][0] == num_steps
            for name, tensor in expected.items():
                # float64 and exact views: instance norm on 2 x 2 pixels magnifies rounding some tenfold a step, so that
                # 1e-15 becomes 1e-7 over these 8, and float32's 1e-7 would become anything
                torch.testing.assert_close(result[of][1][name], tensor, atol=1e-6, rtol=0)


def test_all_ranks_end_with_the_same_bits(phases_on_ranks: OnRanks) -> None:
    for size in (2, 3):
        first, *others = (result["torch.float32"][1] for result in phases_on_ranks(size))
        assert all(torch.equal(other[name], first[name]) for other in others for name in first)


def test_an_answer_that_is_not_finite_on_one_rank_stops_all_before_the_step(phases_on_ranks: OnRanks) -> None:
    for size in (1, 2, 3):
        results = phases_on_ranks(size)
        for result in results:
            message, unchanged = result["stopped"]
            ids = sorted(results[-1]["first_ids"].tolist())  # NaN on the last rank makes every rank's loss NaN
            assert message.startswith("loss is nan at finetune epoch 0, step 0 (negative) (rank")
            assert f"(rank {size - 1}: loss nan, ids {ids[:8]})" in message
            assert unchanged
