"""shards.reading.plan: every id once, even steps, the same mix on every rank, weights respected."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.reading.plan import (
    PADDING,
    cut_epoch,
    embedding_batches,
    ids_of_rank,
    plan_epoch,
    plan_mixed_epoch,
    rows_of_rank,
    weighted_sample,
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def valid(plan: np.ndarray) -> np.ndarray:
    return plan[plan != PADDING]


@given(batch_size=st.integers(0, 100), world_size=st.integers(1, 20))
def test_ranks_share_the_columns(batch_size: int, world_size: int) -> None:
    columns = np.arange(batch_size)
    shares = [columns[rows_of_rank(batch_size, rank, world_size)] for rank in range(world_size)]
    sizes = [len(share) for share in shares]
    np.testing.assert_array_equal(np.concatenate(shares), columns)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


def test_cut_epoch_by_hand() -> None:
    np.testing.assert_array_equal(cut_epoch(np.arange(8), 4), [[0, 1, 2, 3], [4, 5, 6, 7]])
    np.testing.assert_array_equal(cut_epoch(np.arange(8), 3), [[0, 1, 2], [3, 4, 5], [6, 7, -1]])
    np.testing.assert_array_equal(cut_epoch(np.arange(9), 4), [[0, 1, 2, -1], [3, 4, 5, -1], [6, 7, 8, -1]])


@given(count=st.integers(0, 300), batch_size=st.integers(1, 40))
def test_cut_epoch_is_even_and_complete(count: int, batch_size: int) -> None:
    plan = cut_epoch(np.arange(count), batch_size)
    sizes = np.count_nonzero(plan != PADDING, axis=1)
    assert plan.shape == (-(-count // batch_size), batch_size)
    assert plan.dtype == np.int64
    np.testing.assert_array_equal(valid(plan), np.arange(count))
    assert count == 0 or sizes.max() - sizes.min() <= 1
    assert all((row[size:] == PADDING).all() for row, size in zip(plan, sizes, strict=True))


@given(count=st.integers(0, 200), batch_size=st.integers(1, 40), world_size=st.integers(1, 9), seed=st.integers(0, 99))
def test_ranks_together_are_the_same_global_order(count: int, batch_size: int, world_size: int, seed: int) -> None:
    ids = np.arange(count) * 3
    plan = plan_epoch(ids, batch_size, generator(seed))
    np.testing.assert_array_equal(plan, plan_epoch(ids, batch_size, generator(seed)))
    np.testing.assert_array_equal(np.sort(valid(plan)), ids)
    for row in plan:
        shares = [ids_of_rank(row, rank, world_size) for rank in range(world_size)]
        np.testing.assert_array_equal(np.concatenate(shares), row[row != PADDING])
        assert len(shares[0]) - len(shares[-1]) <= 1


def test_plan_epoch_orders_differ_by_seed() -> None:
    ids = np.arange(100)
    assert not np.array_equal(plan_epoch(ids, 10, generator(1)), plan_epoch(ids, 10, generator(2)))


def test_cut_epoch_refuses_an_empty_batch() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        cut_epoch(np.arange(3), 0)


@given(num_patches=st.integers(0, 300), batch_size=st.integers(1, 50), world_size=st.integers(1, 9))
def test_embedding_batches_lie_on_one_grid(num_patches: int, batch_size: int, world_size: int) -> None:
    alone = embedding_batches(num_patches, batch_size, 0, 1)
    shares = [embedding_batches(num_patches, batch_size, rank, world_size) for rank in range(world_size)]
    assert [batch for share in shares for batch in share] == alone
    assert len(shares[0]) - len(shares[-1]) <= 1
    assert [i for start, stop in alone for i in range(start, stop)] == list(range(num_patches))
    assert all(start % batch_size == 0 and 0 < stop - start <= batch_size for start, stop in alone)


def test_mixed_epoch_layout_by_hand() -> None:
    plan = plan_mixed_epoch(np.arange(8), np.array([100, 101, 102]), 5, 0.2, None, generator())
    np.testing.assert_array_equal(plan >= 100, [[False] * 4 + [True]] * 2)
    plan = plan_mixed_epoch(np.arange(4), np.array([100, 101, 102]), 4, 0.5, None, generator())
    np.testing.assert_array_equal(plan >= 100, [[False, True, False, True]] * 2)


@given(
    num_negatives=st.integers(0, 200),
    num_positives=st.integers(0, 60),
    batch_size=st.integers(2, 40),
    share=st.floats(0, 0.9),
    world_size=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_one_pass_over_the_negatives(
    num_negatives: int, num_positives: int, batch_size: int, share: float, world_size: int, seed: int
) -> None:
    if round(batch_size * share) >= batch_size:
        share = 0.5
    negatives, positives = np.arange(num_negatives), 1000 + np.arange(num_positives)
    plan = plan_mixed_epoch(negatives, positives, batch_size, share, None, generator(seed))
    drawn = valid(plan)
    np.testing.assert_array_equal(np.sort(drawn[drawn < 1000]), negatives)
    per_row = min(round(batch_size * share), num_positives)
    assert (np.count_nonzero(plan >= 1000, axis=1) == per_row).all()
    check_positives(plan, positives)
    for row in plan:
        ids = row[row != PADDING]
        expected = per_row * np.diff([0, *np.cumsum([len(ids_of_rank(row, r, world_size)) for r in range(world_size)])])
        mixed = [np.count_nonzero(ids_of_rank(row, rank, world_size) >= 1000) for rank in range(world_size)]
        assert (np.abs(np.array(mixed) - expected / len(ids)) < 1).all()


def check_positives(plan: np.ndarray, positives: np.ndarray) -> None:
    """Drawn equally often (to one), never twice in a row."""
    counts = np.array([np.count_nonzero(plan == i) for i in positives])
    assert len(counts) == 0 or counts.max() - counts.min() <= 1
    for row in plan:
        ids = row[row != PADDING]
        assert len(np.unique(ids)) == len(ids)


@given(
    num_negatives=st.integers(0, 50),
    num_positives=st.integers(0, 20),
    steps=st.integers(0, 30),
    batch_size=st.integers(1, 20),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_given_steps_are_filled_evenly(
    num_negatives: int, num_positives: int, steps: int, batch_size: int, share: float, seed: int
) -> None:
    negatives, positives = np.arange(num_negatives), 1000 + np.arange(num_positives)
    plan = plan_mixed_epoch(negatives, positives, batch_size, share, steps, generator(seed))
    assert plan.shape == (steps, batch_size)
    per_row = min(round(batch_size * share), num_positives)
    room = min(batch_size - per_row, num_negatives)
    assert (np.count_nonzero(plan != PADDING, axis=1) == per_row + room).all()
    check_positives(plan, positives)
    check_positives(plan, negatives)


def test_a_row_of_only_positives_cannot_go_over_negatives() -> None:
    with pytest.raises(ValueError, match="lower it"):
        plan_mixed_epoch(np.arange(8), np.arange(8, 16), 4, 1.0, None, generator())


@given(size=st.integers(0, 30), seed=st.integers(0, 99))
def test_sample_is_without_replacement_and_never_of_weight_0(size: int, seed: int) -> None:
    weights = np.where(np.arange(60) % 2, generator(seed).random(60) + 0.01, 0)
    ids = weighted_sample(weights, size, generator(seed))
    assert len(ids) == size == len(np.unique(ids))
    assert (np.diff(ids) > 0).all()
    assert (ids % 2 == 1).all()


def test_the_whole_pool_can_be_drawn() -> None:
    weights = np.array([0, 1e-30, 0.5, 0, 3], dtype=np.float64)
    np.testing.assert_array_equal(weighted_sample(weights, 3, generator()), [1, 2, 4])


def test_chunks_do_not_change_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.ones(1000, dtype=np.float16)
    whole = weighted_sample(weights, 100, generator())
    monkeypatch.setattr("shards.reading.plan._CHUNK", 77)
    np.testing.assert_array_equal(weighted_sample(weights, 100, generator()), whole)


def test_equal_keys_go_by_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.reading.plan._exponential_keys", lambda weights, _: np.ones(len(weights), np.float32))
    np.testing.assert_array_equal(weighted_sample(np.ones(10), 4, generator()), [0, 1, 2, 3])


def test_weights_are_respected() -> None:
    """Chi-square against the exact chances of successive sampling: first by weight, then by the remaining weights."""
    weights = np.array([0.5, 1.0, 2.0, 4.0], dtype=np.float16)
    share = weights.astype(float) / weights.sum()
    pair = share[:, None] * share[None, :] / (1 - share[:, None])
    expected = np.array([(pair + pair.T)[a, b] for a in range(4) for b in range(a + 1, 4)])
    num_draws, draw = 6000, generator(7)
    counts = np.zeros(6)
    index = {pair: n for n, pair in enumerate((a, b) for a in range(4) for b in range(a + 1, 4))}
    for _ in range(num_draws):
        first, second = weighted_sample(weights, 2, draw).tolist()
        counts[index[first, second]] += 1
    chi_square = ((counts - num_draws * expected) ** 2 / (num_draws * expected)).sum()
    assert chi_square < 20.5  # 5 degrees of freedom, p = 0.001


def test_0_1_weights_draw_uniformly() -> None:
    weights = np.array([1, 0, 1, 1, 0, 1, 1], dtype=np.int8)
    draw = generator(3)
    counts = np.zeros(7)
    for _ in range(5000):
        counts[weighted_sample(weights, 2, draw)] += 1
    expected = 5000 * 2 / 5
    assert (counts[weights == 0] == 0).all()
    assert ((counts[weights == 1] - expected) ** 2 / expected).sum() < 18.5  # 4 degrees of freedom, p = 0.001


@pytest.mark.parametrize(
    ("weights", "size", "message"),
    [
        ([1.0, 0.0], 2, "only 1 have a weight above 0"), ([1.0, -1.0], 1, "not negative"), ([1.0, np.nan], 1, "finite"),
        ([1.0, 1e40], 1, "finite"), ([1.0, 1e-60], 1, "only their ratios count"),
    ],
)
def test_bad_weights(weights: list[float], size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weighted_sample(np.array(weights), size, generator())
