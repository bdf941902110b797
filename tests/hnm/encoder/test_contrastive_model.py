"""Encoder and head in one file, and views that do not depend on the rank that computes them."""

from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnm.encoder.augment import AugmentConfig
from hnm.encoder.contrastive_model import fresh_model, load_model, save_model, split_batch, two_views
from hnm.encoder.encoder_config import EncoderConfig
from hnm.engine.state import save_weights
from shards.reading.plan import PADDING, ids_of_rank
from shards.seeding import torch_generator
from tests.ranks import world_of

CONFIG = EncoderConfig(stem="small", width=0.125, projection_dim=16)


@given(st.integers(0, 50), st.integers(0, 10), st.integers(1, 7))
def test_ranks_hold_what_the_plan_gives_them(num_patches: int, num_padding: int, size: int) -> None:
    row = np.concatenate([np.arange(num_patches), np.full(num_padding, PADDING)])
    sizes = split_batch(row, world_of(0, size))
    assert sizes == [len(ids_of_rank(row, rank, size)) for rank in range(size)]


def test_views_do_not_depend_on_the_rank() -> None:
    images = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augmentation = AugmentConfig(recipe="simclr")
    expected = two_views(images, [7], augmentation, torch_generator(0), world_of(0, 1)).unflatten(0, (2, 7))
    shares = [
        two_views(part, [3, 0, 4], augmentation, torch_generator(0), world_of(rank, 3)).unflatten(0, (2, len(part)))
        for rank, part in ((0, images[:3]), (2, images[3:]))
    ]
    torch.testing.assert_close(torch.cat(shares, dim=1), expected, atol=1e-6, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 1e-1  # two views, not one twice


def test_a_fresh_model_is_drawn_from_its_seed_alone() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    one, same, other = (fresh_model(CONFIG, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_saved_model_comes_back_with_its_head(tmp_path: Path) -> None:
    model = fresh_model(CONFIG, 1)
    save_model(tmp_path / "a.safetensors", model, {"round": "0"})
    back = load_model(tmp_path / "a.safetensors", CONFIG, seed=2).state_dict()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


def test_a_foreign_encoder_or_another_head_size_gets_a_fresh_head(tmp_path: Path) -> None:
    model, fresh = fresh_model(CONFIG, 1), fresh_model(CONFIG, 2)
    save_weights(tmp_path / "foreign.safetensors", model.encoder, {})
    torch.save(model.encoder.state_dict(), tmp_path / "foreign.pth")
    save_model(tmp_path / "wide.safetensors", fresh_model(CONFIG.model_copy(update={"projection_dim": 8}), 1), {})
    for name in ("foreign.safetensors", "foreign.pth", "wide.safetensors"):
        back = load_model(tmp_path / name, CONFIG, seed=2)
        assert torch.equal(back.encoder.conv1.weight, model.encoder.conv1.weight)
        for key, tensor in fresh.projection.state_dict().items():
            assert torch.equal(back.projection.state_dict()[key], tensor)
