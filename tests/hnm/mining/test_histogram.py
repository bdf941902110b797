"""The cut by counting: the same patches as by partition, on any number of ranks, however many ties there are."""

from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnm.aggregator.score import Part
from hnm.engine.ranks import World, single_world
from hnm.mining.coordinator import slides_of_part
from hnm.mining.histogram import count_digits, cut_over_ranks, find_digit, keys_of, score_of
from hnm.mining.mining import Chosen, MiningConfig, choose
from hnm.mining.ranking import Slides, cut_of
from tests.ranks import on_ranks

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
NUM_CASES = 40


@given(st.lists(finite, min_size=1, max_size=50))
def test_keys_are_in_the_order_of_the_scores(values: list[float]) -> None:
    scores = np.array(values, np.float32)
    keys = keys_of(scores)
    np.testing.assert_array_equal(keys[:, None] < keys, scores[:, None] < scores)
    np.testing.assert_array_equal(keys[:, None] == keys, scores[:, None] == scores)  # -0.0 equals 0.0
    assert [score_of(int(key)) for key in keys] == scores.tolist()


def test_keys_by_hand() -> None:
    assert keys_of(np.array([0.0, -0.0, 1.0, -1.0], np.float32)).tolist() == [
        0x80000000,
        0x80000000,
        0xBF800000,
        0x407FFFFF,
    ]


def test_digits_by_hand() -> None:
    keys = np.array([0x01020304, 0x01020305, 0x01FF0304, 0x02020304], np.uint32)
    assert np.flatnonzero(count_digits(keys, 0, 24)).tolist() == [1, 2]
    assert count_digits(keys, 0x01, 16)[[0x02, 0xFF]].tolist() == [2, 1]
    assert count_digits(keys, 0x010203, 0)[[4, 5]].tolist() == [1, 1]
    counts = np.zeros(256, np.int64)
    counts[[3, 200]] = 2, 5
    assert [find_digit(counts, place) for place in (0, 1, 2, 6)] == [(3, 0), (3, 0), (200, 2), (200, 2)]


@given(
    st.lists(finite | st.sampled_from([0.25, 0.5]), max_size=60), st.floats(0.01, 1), st.sampled_from(["exact", "keep"])
)
def test_one_rank_cuts_where_the_partition_does(values: list[float], share: float, ties: str) -> None:
    pool = np.array(values, np.float32)
    expected = cut_of(pool.copy(), share, ties)  # type: ignore[arg-type]
    ours = cut_over_ranks(pool, share, ties, single_world())  # type: ignore[arg-type]
    assert ours.threshold == expected.threshold
    num_equal = np.count_nonzero(pool == np.float32(ours.threshold))
    assert min(ours.num_ties, num_equal) == min(expected.num_ties, num_equal)


class Case(NamedTuple):
    """Scores (n,), kinds (n,), where slides begin, a config, and where two cuts part the ids between ranks."""

    scores: np.ndarray
    kinds: np.ndarray
    bounds: np.ndarray
    config: MiningConfig
    cuts: np.ndarray


def drawn_case(number: int) -> Case:
    """Return a case; slides and parts may be empty, a slide may lie on all ranks."""
    random = np.random.default_rng(number)
    size = int(random.integers(1, 400))
    scores = (random.integers(0, (3, 20, 10**6)[number % 3], size) / 20).astype(np.float32)  # from many ties to few
    bounds = np.sort(np.append(random.integers(0, size + 1, random.integers(0, 9)), [0, size]))
    kinds = np.repeat(random.integers(-1, 2, len(bounds) - 1), np.diff(bounds)).astype(np.int8)
    config = MiningConfig(
        neg_ratio=random.uniform(0.01, 1),
        ties=("exact", "keep")[number % 2],
        mask_uncertain_negatives=number % 5 > 0,
        candidates_per_slide=(0.0, random.uniform(0.01, 1))[number % 4 > 1],
    )
    return Case(scores, kinds, bounds, config, np.sort(random.integers(0, size + 1, 2)))


def choose_all(world: World) -> list[Chosen]:
    """Choose in every case by counting, each rank in its part of the ids; positions are turned into ids."""
    results = []
    for number in range(NUM_CASES):
        scores, kinds, bounds, config, cuts = drawn_case(number)
        ends = np.array([0, *cuts[: world.size - 1], len(scores)])
        ids = slice(int(ends[world.rank]), int(ends[world.rank + 1]))
        slides = slides_of_part(Part(scores[ids], ends, ids), bounds)
        own = choose(scores[ids], kinds[ids], slides, config, partial(cut_over_ranks, world=world))
        results.append(Chosen(own.negatives + ids.start, own.candidates + ids.start, own.candidate_scores))
    return results


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_together_choose_what_one_partition_does(size: int) -> None:
    by_rank = on_ranks(size, choose_all)
    for number in range(NUM_CASES):
        scores, kinds, bounds, config, _ = drawn_case(number)
        expected = choose(scores, kinds, Slides(bounds, np.empty(0, np.int64)), config)
        negatives = np.concatenate([results[number].negatives for results in by_rank])
        candidates = np.concatenate([results[number].candidates for results in by_rank])
        np.testing.assert_array_equal(negatives, expected.negatives)
        np.testing.assert_array_equal(np.sort(candidates), np.sort(expected.candidates))
