"""Feature rows by slide, whichever of the ranks' files they lie in."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm.aggregator.bags import Bags, as_rows, features_complete, file_of_rows, write_index
from shards.files import write_array

SLIDES, ROWS = np.array([2, 5, 6]), np.array([3, 1, 4])
FEATURES = np.arange(16, dtype=np.float16).reshape(8, 2) / 3


def bags_in(folder: Path, cuts: list[int]) -> Bags:
    files = []
    for start, stop in itertools.pairwise([0, *cuts, 8]):
        files.append(file_of_rows(start, stop))
        write_array(folder / files[-1], FEATURES[start:stop])
    write_index(folder, SLIDES, ROWS, files)
    return Bags(folder, torch.device("cpu"))


@pytest.mark.parametrize("cuts", [[], [3], [2, 7], [0, 8], [5, 5]])
def test_a_bag_is_whole_wherever_the_files_are_cut(tmp_path: Path, cuts: list[int]) -> None:
    bags = bags_in(tmp_path, cuts)
    assert (bags.num_rows, bags.dim) == (8, 2)
    for slide, start, stop in ((2, 0, 3), (5, 3, 4), (6, 4, 8)):
        bag = bags.bag(slide)
        assert bag.dtype == torch.float32
        np.testing.assert_array_equal(bag, FEATURES[start:stop].astype(np.float32))


@settings(max_examples=40)
@given(st.lists(st.integers(0, 8), max_size=4).map(sorted), st.integers(0, 8), st.integers(0, 8))
def test_any_rows_of_any_files(tmp_path_factory: pytest.TempPathFactory, cuts: list[int], a: int, b: int) -> None:
    start, stop = min(a, b), max(a, b)
    rows = bags_in(tmp_path_factory.mktemp("bags"), cuts).rows(start, stop)
    np.testing.assert_array_equal(rows, FEATURES[start:stop].astype(np.float32))


def test_features_are_complete_with_their_index(tmp_path: Path) -> None:
    write_array(tmp_path / file_of_rows(0, 8), FEATURES)
    assert not features_complete(tmp_path)
    write_index(tmp_path, SLIDES, ROWS, [file_of_rows(0, 8)])
    assert features_complete(tmp_path)


def test_rows_beyond_float16_are_an_error() -> None:
    features = torch.tensor([[1.0, 2.0], [3.0, 7e4], [float("nan"), 0.0]])
    with pytest.raises(FloatingPointError, match=r"^b \(the first of 2\).*65504"):
        as_rows(features, "abc".__getitem__)
    assert as_rows(features[:1], "abc".__getitem__).tolist() == [[1.0, 2.0]]
