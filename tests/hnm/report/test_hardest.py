"""The hardest negatives of a slide and of the cohort, and what became of those that were mined, by hand."""

import numpy as np
import pytest

from hnm.evidence.patch_threshold import PatchThreshold
from hnm.report.hardest import Scoring, follow, hardest

NAN = np.nan


def scoring(scores: list[float], threshold: float, negatives: list[int]) -> Scoring:
    is_negative = np.array([True, True, True, True, False, False])
    of_round = np.array(scores, np.float32), PatchThreshold(threshold, "by hand")
    return Scoring("round", *of_round, is_negative, np.array(negatives, int))


ROUNDS = [
    scoring([0.9, 0.8, 0.7, 0.1, 0.95, NAN], 0.5, [0, 1, 2]),
    scoring([0.6, 0.2, 0.7, 0.1, 0.99, NAN], 0.6, [0, 2, 3]),
    scoring([0.1, 0.1, 0.4, 0.1, 0.99, NAN], 0.3, []),
]


@pytest.mark.parametrize("most", [1, 2, 10])
def test_the_hardest_come_first_and_unscored_ones_not_at_all(most: int) -> None:
    scores = np.array([0.2, 0.9, NAN, 0.9, 0.5, *[0.01] * 60], np.float32)
    assert hardest(scores, np.arange(65), most)[:4].tolist() == [1, 3, 4, 0][:most]
    assert len(hardest(scores, np.arange(65), most)) == most
    assert hardest(scores, np.array([2]), most).tolist() == []


def test_ranks_are_among_patches_of_negative_slides() -> None:
    # patch 4 is of a positive slide: where it would be; patch 5 has no score
    assert ROUNDS[0].ranks(np.arange(6)).tolist() == [1, 2, 3, 4, 1, 0]
    assert ROUNDS[2].ranks(np.arange(4)).tolist() == [2, 2, 1, 2]  # equal scores have one rank


def test_what_was_mined_is_followed_through_the_later_rounds() -> None:
    first, second = follow(ROUNDS)
    assert (first.num_mined, first.num_called, first.num_again) == (3, [3, 2, 1], 2)
    assert (second.num_mined, second.num_called, second.num_again) == (3, [2, 1], 0)
    (of_slide, _) = follow(ROUNDS, lambda ids: ids[(ids == 1) | (ids == 2)])
    assert (of_slide.num_mined, of_slide.num_called, of_slide.num_again) == (2, [2, 1, 1], 1)


def test_without_a_threshold_nothing_is_called() -> None:
    blind = scoring([0.9] * 6, float(np.nextafter(np.float32(1), np.float32(2))), [0])
    assert not blind.calls
    assert follow([blind])[0].num_called == [None]
