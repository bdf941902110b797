"""Which patches of which slides a step takes on each rank, and that reading ahead gives the same."""


from pathlib import Path

import numpy as np
import pytest
import torch

from hnm.aggregator.bags import Bags, file_of_rows, write_index
from hnm.aggregator.feed import Feed
from hnm.engine.ranks import single_world
from tests.hnm.worlds import session_with_features
from tests.ranks import world_of

KEY = (0, 1, 2)  # seed, round, epoch


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Bags:
    session = session_with_features(single_world(), str(tmp_path_factory.mktemp("features")))
    return Bags(session.features, torch.device("cpu"))


def test_some_rows_are_those_rows_across_the_borders_of_files(bags: Bags) -> None:
    borders = bags.part_starts[1:-1].tolist()
    assert any(low < border < high for low, high in bags.rows_of_slide.values() for border in borders)
    for slide, (low, high) in bags.rows_of_slide.items():
        places = np.arange(0, high - low, 2)
        some = bags.some(slide, places)
        assert some.dtype == np.float16
        np.testing.assert_array_equal(some, bags.bag(slide).numpy()[places])
        np.testing.assert_array_equal(bags.some(slide, None), bags.bag(slide).numpy())


def test_patches_are_drawn_anew_every_epoch_and_alike_on_any_number_of_ranks(bags: Bags) -> None:
    slide = max(bags.rows_of_slide, key=lambda s: np.ptp(bags.rows_of_slide[s]))
    size = int(np.ptp(bags.rows_of_slide[slide]))
    drawn = [Feed(bags, 5, (0, 0, epoch), world_of(epoch % 2, 2)).choose(slide) for epoch in range(200)]
    for places in drawn:
        assert places is not None
        assert len(places) == 5
        assert (np.diff(places) > 0).all()
    assert len({tuple(places) for places in drawn if places is not None}) > 100
    counts = np.bincount(np.concatenate(drawn), minlength=size)  # type: ignore[arg-type]
    assert counts.min() > 0.5 * counts.mean()  # none is left out
    again = Feed(bags, 5, (0, 0, 7), world_of(2, 3)).choose(slide)
    np.testing.assert_array_equal(again, drawn[7])  # type: ignore[arg-type]
    assert Feed(bags, size, (0, 0, 0), single_world()).choose(slide) is None


def test_the_ranks_share_a_step_and_an_idle_one_takes_a_patch_with_weight_zero(bags: Bags) -> None:
    pairs = np.array([[1, 0], [3, 2], [5, 4]])
    whole = Feed(bags, 4, KEY, single_world()).read(pairs)
    assert whole.slides.tolist() == [1, 3, 5, 0, 2, 4]
    assert (whole.weight, max(len(bag) for bag in whole.bags)) == (1 / 3, 4)
    shares = [Feed(bags, 4, KEY, world_of(rank, 4)).read(pairs) for rank in range(4)]
    assert [share.slides.tolist() for share in shares] == [[1, 0], [3, 2], [5, 4], [1, 0]]
    assert [share.weight for share in shares] == [4 / 3] * 3 + [0]
    assert [len(bag) for bag in shares[3].bags] == [1, 1]
    np.testing.assert_array_equal(shares[1].bags[0], whole.bags[1])


def test_reading_ahead_gives_the_same_and_tells_of_errors(bags: Bags) -> None:
    steps = [np.array([[1, 0]]), np.array([[3, 2], [5, 4]]), np.array([[5, 0]])]
    feed = Feed(bags, 4, KEY, single_world())
    for share, pairs in zip(feed.ahead(steps), steps, strict=True):
        expected = feed.read(pairs)
        packed = share.packed(torch.device("cpu"))
        assert packed.sizes.tolist() == [len(bag) for bag in expected.bags]
        np.testing.assert_array_equal(packed.features, np.concatenate(expected.bags).astype(np.float32))
    assert list(feed.ahead([])) == []
    with pytest.raises(KeyError):
        list(feed.ahead([*steps, np.array([[999, 0]])]))


def test_features_of_other_tools_in_float32_stay_as_they_are(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [random.standard_normal((3, 2)).astype(dtype) for dtype in (np.float32, np.float16)]
    names = [file_of_rows(0, 3), file_of_rows(3, 6)]
    for name, part in zip(names, rows, strict=True):
        np.save(tmp_path / name, part)
    write_index(tmp_path, np.arange(2), np.array([3, 3]), names)
    share = Feed(Bags(tmp_path, torch.device("cpu")), None, KEY, single_world()).read(np.array([[0, 1]]))
    assert share.bags[0].dtype == np.float32
    np.testing.assert_array_equal(share.packed(torch.device("cpu")).features, np.concatenate(rows))
