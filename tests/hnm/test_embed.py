"""Features: the encoder's own numbers, bit for bit the same on any number of ranks, and complete or absent."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnm.augment import to_float
from hnm.bags import Bags, features_complete
from hnm.contrastive_model import fresh_model
from hnm.embed import batches_of_rank, embed
from launch.distributed import single_world
from shards.errors import InputError
from tests.hnm.conftest import OnRanks
from tests.ranks import world_of
from tests.tiny import tiny_config, tiny_session


@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 7))
def test_ranks_share_whole_batches_of_one_grid(num_patches: int, batch_size: int, size: int) -> None:
    whole = batches_of_rank(num_patches, batch_size, world_of(0, 1))
    shares = [batches_of_rank(num_patches, batch_size, world_of(rank, size)) for rank in range(size)]
    assert [batch for share in shares for batch in share] == whole
    assert sum(stop - start for start, stop in whole) == num_patches
    assert all(start % batch_size == 0 for start, _ in whole)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_features_are_the_same_to_the_bit_on_1_2_and_3_ranks(phases_on_ranks: OnRanks) -> None:
    (expected,) = phases_on_ranks(1)[0]["features"]
    assert expected.dtype == np.float16
    for size in (2, 3):
        parts = phases_on_ranks(size)[0]["features"]
        assert len(parts) == size
        np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_a_bag_holds_the_encoders_features_without_augmentation(tiny_cohort: Path, tmp_path: Path) -> None:
    config = tiny_config()
    with tiny_session(single_world(), tiny_cohort, config) as session:
        encoder = fresh_model(config.encoder, seed=1).encoder
        slides = session.study.validation
        embed(encoder, slides, 7, tmp_path, session)
        bag = Bags(tmp_path, torch.device("cpu")).bag(slides[1])
        with torch.no_grad():
            expected = encoder.eval()(to_float(session.reader.read(session.study.patches_of(slides[1:]))))
    assert bag.shape == (16, encoder.feature_dim)
    torch.testing.assert_close(bag, expected, atol=2e-3, rtol=2e-3)  # float16 has 11 bits


def test_an_interrupted_embedding_leaves_nothing_that_looks_finished(tiny_cohort: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    shutil.copytree(tiny_cohort, cohort)
    config = tiny_config()
    with tiny_session(single_world(), cohort, config) as session:
        session.study.cohort.shard_path(3).unlink()
        with pytest.raises(InputError, match=r"slide-003.*\.tar"):
            embed(
                fresh_model(config.encoder, 1).encoder,
                session.study.embedded_slides,
                16,
                tmp_path / "features",
                session,
            )
    assert not features_complete(tmp_path / "features")
    assert list((tmp_path / "features").iterdir()) == []
