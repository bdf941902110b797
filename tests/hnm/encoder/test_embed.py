"""Features: the encoder's own numbers, bit for bit the same on any number of ranks, and complete or absent."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hnm.aggregator.bags import Bags, features_complete
from hnm.encoder.augment import to_float
from hnm.encoder.contrastive_model import fresh_model
from hnm.encoder.embed import embed
from hnm.engine.ranks import single_world
from shards.errors import InputError
from tests.hnm.conftest import OnRanks
from tests.tiny import tiny_config, tiny_session


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


def test_embedding_computes_as_training_does(tiny_cohort: Path, tmp_path: Path) -> None:
    bags = {}
    for precision, override in (("fp32", "engine.compile=true"), ("bf16", "engine.channels_last=true")):
        config = tiny_config(f"engine.precision={precision}", override)
        with tiny_session(single_world(), tiny_cohort, config) as session:
            encoder = fresh_model(config.encoder, seed=1).encoder
            embed(encoder, session.study.validation, 7, tmp_path / precision, session)
            assert not encoder.training
        bags[precision] = Bags(tmp_path / precision, torch.device("cpu")).bag(session.study.validation[0])
    error = ((bags["bf16"] - bags["fp32"]).norm() / bags["fp32"].norm()).item()
    assert 1e-4 < error < 0.1  # bfloat16 has 8 bits; instance norm on a few pixels enlarges its error


def test_features_that_are_not_finite_name_their_patch(tiny_cohort: Path, tmp_path: Path) -> None:
    config = tiny_config()
    with tiny_session(single_world(), tiny_cohort, config) as session:
        encoder = fresh_model(config.encoder, seed=1).encoder
        for parameter in encoder.parameters():
            parameter.detach().fill_(np.nan)
        with pytest.raises(FloatingPointError, match=r"patch 0 of slide 'slide-000' .*not finite, or above float16's 65504"):
            embed(encoder, session.study.embedded_slides, 7, tmp_path, session)
    assert not list(tmp_path.iterdir())


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


class StopAfter:
    """A keeper that ends the run when it has been asked so often whether to stop."""

    def __init__(self, num_batches: int) -> None:
        self.left = num_batches

    def stop_if_asked(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise InterruptedError


def test_a_stopped_embedding_goes_on_after_its_last_whole_file(
    tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hnm.encoder.embed.MIN_BATCHES_PER_FILE", 2)
    monkeypatch.setattr("hnm.encoder.embed.FILES_PER_RANK", 4)
    config = tiny_config("reader.broken=skip", "reader.max_broken_share=1")
    cohort = tmp_path / "cohort"
    shutil.copytree(tiny_cohort, cohort)
    with tiny_session(single_world(), cohort, config) as session:
        slides, encoder = session.study.embedded_slides, fresh_model(config.encoder, seed=1).encoder
        with open(session.study.cohort.shard_path(0), "r+b") as shard:  # the first patch of the first slide
            shard.seek(int(session.study.cohort.patches.offset[0]))
            shard.write(bytes(int(session.study.cohort.patches.nbytes[0])))
        embed(encoder, slides, 16, tmp_path / "whole", session)
        expected = Bags(tmp_path / "whole", torch.device("cpu")).rows(0, 128)
    stopped = tmp_path / "stopped"
    for num_batches, num_files in ((5, 2), (3, 3)):  # 8 batches, 2 a file
        with tiny_session(single_world(), cohort, config) as session:
            object.__setattr__(session, "keeper", StopAfter(num_batches))
            with pytest.raises(InterruptedError):
                embed(encoder, slides, 16, stopped, session)
        assert len([path for path in stopped.glob("rows-*.npy") if "broken" not in path.name]) == num_files
        assert not features_complete(stopped)
    (stopped / "rows-000000000000-000000000099.npy").write_bytes(b"of another number of ranks")
    called: list[bool] = []
    with tiny_session(single_world(), cohort, config) as session:
        embed(encoder, slides, 16, stopped, session, lambda: called.append(features_complete(stopped)))
        assert session.reader.num_read == 32  # the last file alone
        assert session.reader.broken.ids.tolist() == [0]  # met before the stops, and not forgotten
    assert called == [False]
    assert torch.equal(Bags(stopped, torch.device("cpu")).rows(0, 128), expected)
    assert len(list(stopped.glob("rows-*"))) == 4
