"""Pretraining: the same course on any number of ranks, from its seed alone, whole or not at all."""

from pathlib import Path

import pytest
import torch

from hnm.encoder.contrastive_model import fresh_model
from hnm.encoder.simclr import pretrain, require_batch
from hnm.engine.ranks import single_world
from hnm.engine.state import load_weights
from shards.errors import InputError
from tests.hnm.conftest import OnRanks
from tests.ranks import world_of
from tests.tiny import tiny_config, tiny_session


def test_two_and_three_ranks_follow_one(phases_on_ranks: OnRanks) -> None:
    expected, start = phases_on_ranks(1)[0]["pretrained"], fresh_model(tiny_config().encoder, seed=0).state_dict()
    moved = max(float((tensor - start[name]).abs().max()) for name, tensor in expected.items())
    assert moved > 2e-3  # 4 steps of Adam at up to 1e-3
    for size in (2, 3):
        result = phases_on_ranks(size)[0]
        assert result["pretrain_steps"] == phases_on_ranks(1)[0]["pretrain_steps"] == 4
        for name, tensor in expected.items():
            # float64: Adam's first steps go by the sign of a gradient; where it is nearly 0, float32's rounding decides
            torch.testing.assert_close(result["pretrained"][name], tensor, atol=1e-9, rtol=0)


def test_the_seed_decides(tiny_cohort: Path, tmp_path: Path) -> None:
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = tiny_config(f"seed={seed}", "pretrain.batch_size=48")
        with tiny_session(single_world(), tiny_cohort, config) as session:
            pretrain(config.encoder, config.pretrain, tmp_path / f"{name}.safetensors", session)
        files.append((tmp_path / f"{name}.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]
    assert load_weights(tmp_path / "a.safetensors")[1].keys() == {"encoder", "cohort", "input"}


def test_the_loss_falls(tiny_cohort: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    config = tiny_config("pretrain.epochs=6", "pretrain.batch_size=48", "pretrain.augment.recipe=weak")
    with tiny_session(single_world(), tiny_cohort, config) as session:
        session.journal.on_metrics = lambda values, step: losses.extend(
            value for name, value in values.items() if name == "pretrain/loss"
        )
        assert pretrain(config.encoder, config.pretrain, tmp_path / "a.safetensors", session) == 12
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.1


def test_a_loss_that_is_not_finite_stops_and_leaves_no_file(tiny_cohort: Path, tmp_path: Path) -> None:
    config = tiny_config("pretrain.lr=1e30")
    with (
        tiny_session(single_world(), tiny_cohort, config) as session,
        pytest.raises(
            FloatingPointError, match=r"loss is nan at pretrain epoch 0, step 1 \(loss\) \(rank 0: loss nan, ids \[\d"
        ),
    ):
        pretrain(config.encoder, config.pretrain, tmp_path / "a.safetensors", session)
    assert list(tmp_path.iterdir()) == []


def test_batches_that_cannot_be_filled_are_refused(tiny_cohort: Path, tmp_path: Path) -> None:
    config = tiny_config("pretrain.batch_size=97")
    message = r"pretrain\.batch_size is 97, but there are only 96 training patches\. Set .* at most 96"
    with tiny_session(single_world(), tiny_cohort, config) as session, pytest.raises(InputError, match=message):
        pretrain(config.encoder, config.pretrain, tmp_path / "a.safetensors", session)
    require_batch(8, 8, "patches", "x.batch_size", world_of(0, 4))
    with pytest.raises(InputError, match=r"x\.batch_size is 8, too small for 5 ranks: set it to at least 10"):
        require_batch(10, 8, "patches", "x.batch_size", world_of(0, 5))
