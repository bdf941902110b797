"""Feature rows by slide, whichever of the ranks' files they lie in."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm.aggregator.bags import Bags, as_rows, features_complete, file_of_rows, write_index
from shards.files import write_array
from tests.paths import ROOT

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


FEW_FILES = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
import torch
from hnm.aggregator.bags import Bags
bags = Bags(Path(sys.argv[1]), torch.device("cpu"))
rows = [bags.rows(start, start + 3) for start in (*range(0, 2044, 2), 0)]  # each over two files
assert [row[0, 0].item() for row in rows] == [*range(0, 2044, 2), 0]
print(len(rows))
"""


def test_the_files_of_64_ranks_are_read_where_a_process_may_open_256(tmp_path: Path) -> None:
    names = [file_of_rows(start, start + 2) for start in range(0, 2048, 2)]  # 16 files of each rank
    for number, name in enumerate(names):
        write_array(tmp_path / name, np.array([[2 * number], [2 * number + 1]], np.float16))
    write_index(tmp_path, np.array([0]), np.array([2048]), names)
    done = subprocess.run(
        [sys.executable, "-c", FEW_FILES, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "1023\n", done.stderr
