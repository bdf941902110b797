"""Encoder and projection head as one module, and what both contrastive trainings share: two views, forward, backward."""

from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from hnm.encoder.augment import AugmentConfig, augment, draw
from hnm.encoder.batch_norm import use_global_batch_norm
from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.grad_cache import backward_in_chunks, count_chunks
from hnm.encoder.networks import Encoder, build_encoder, metadata_of
from hnm.encoder.resnet import ProjectionHead
from hnm.encoder.weights import Checkpoint, fill_encoder, read_checkpoint
from hnm.engine.engine import Engine, EngineConfig, MakeOptimizer
from hnm.engine.engines import wrap
from hnm.engine.ranks import World
from hnm.engine.state import save_weights
from hnm.engine.step import Computed
from shards.reading.plan import PADDING, rows_of_rank
from shards.seeding import seeded_torch


class ContrastiveModel(nn.Module):
    """Images (batch, 3, h, w) in [0, 1] to unit-length projections (batch, projection_dim).

    Attributes:
        fixed_norms: names of the batch norms that keep their running statistics, also in training mode.
    """

    def __init__(self, encoder: Encoder, projection_dim: int) -> None:
        super().__init__()
        self.fixed_norms: frozenset[str] = frozenset()
        self.encoder = encoder
        self.projection = ProjectionHead(encoder.feature_dim, projection_dim)

    def forward(self, images: Tensor) -> Tensor:
        projections: Tensor = self.projection(self.encoder(images))
        return projections

    def train(self, mode: bool = True) -> Self:
        """Set training mode, with the fixed batch norms left as in evaluation."""
        super().train(mode)
        for name in self.fixed_norms:
            self.get_submodule(name).eval()
        return self


def fresh_model(config: EncoderConfig, seed: int, start: Checkpoint | None = None) -> ContrastiveModel:
    """Return a randomly initialised model, the same on every rank.

    Args:
        start: the file that fills the encoder afterwards; it may say of which network it is.
    """
    with seeded_torch(seed, "contrastive model"):
        told = (start.network, start.wanted) if start else (None, None)
        encoder = build_encoder(config, *told, weights_follow=start is not None)
        return ContrastiveModel(encoder, config.projection_dim)


def load_model(path: Path, config: EncoderConfig, seed: int) -> ContrastiveModel:
    """Return the model saved in `path`; a file without our projection head (a foreign encoder) gets a fresh one.

    Raises:
        InputError: the file does not fit the encoder section.
    """
    checkpoint = read_checkpoint(path, config)
    model = fresh_model(config, seed, checkpoint)
    fill_encoder(model.encoder, checkpoint)
    if path.suffix == ".safetensors":
        prefix = "projection."
        state = {key.removeprefix(prefix): value for key, value in checkpoint.state.items() if key.startswith(prefix)}
        shapes = {key: value.shape for key, value in model.projection.state_dict().items()}
        if {key: value.shape for key, value in state.items()} == shapes:
            model.projection.load_state_dict(state)
    return model


def save_model(path: Path, model: ContrastiveModel, metadata: dict[str, str]) -> None:
    """Write encoder and projection head as one safetensors file. Call it on rank 0 only."""
    save_weights(path, model, {**metadata_of(model.encoder), **metadata})


def start_training(
    model: ContrastiveModel, make_optimizer: MakeOptimizer, config: EngineConfig, world: World
) -> Engine:
    """Return an engine that trains the model, with batch norms over all ranks. Every rank must call it.

    The trained weights are in `engine.full_weights()`; the model itself is not to be used afterwards.
    """
    model.to(world.device)
    model.encoder = use_global_batch_norm(model.encoder, world.size)  # type: ignore[assignment]
    return wrap(model, make_optimizer, config, world)


def split_batch(row: np.ndarray, world: World) -> list[int]:
    """Return how many of a plan row's patches each rank holds."""
    total = int(np.count_nonzero(row != PADDING))
    shares = (rows_of_rank(total, rank, world.size) for rank in range(world.size))
    return [share.stop - share.start for share in shares]


def draw_views(
    images: Tensor,
    sizes: list[int],
    config: AugmentConfig,
    generator: torch.Generator,
    world: World,
    num_views: int = 2,
) -> Tensor:
    """Return augmented views of this rank's patches, (views * local patches, 3, h, w): all first ones, then all second ones.

    The augmentations of the whole global batch are drawn on every rank, which takes its own rows: a patch is augmented the
    same way whichever rank it lands on.

    Args:
        images: (local patches, 3, h, w) uint8.
        sizes: patches on every rank.
        generator: CPU generator in the same state on all ranks.
    """
    num_patches, first = sum(sizes), sum(sizes[: world.rank])
    parameters = draw(config, num_views * num_patches, images.shape[-1], generator)
    local = torch.arange(first, first + sizes[world.rank])
    rows = torch.cat([local + view * num_patches for view in range(num_views)])  # all views of each local patch
    images = images.to(world.device, non_blocking=True)
    return augment(
        images.repeat(num_views, 1, 1, 1), {name: value[rows].to(world.device) for name, value in parameters.items()}
    )


def forward_backward(
    engine: Engine,
    views: Tensor,
    ids: np.ndarray,
    sizes: list[int],
    chunk_size: int,
    loss_of: Callable[[Tensor], Tensor],
) -> Computed:
    """Project the views, compute the loss of the projections and its gradients. Every rank must call it.

    Args:
        engine: trains a ContrastiveModel.
        views: (2 * local patches, 3, h, w), as `draw_views` returns them.
        ids: (local patches,) their ids.
        sizes: patches on every rank.
        chunk_size: patches in a forward pass; 0 = all at once.
        loss_of: the loss of features (local patches, 2, dim).
    """
    num_chunks = count_chunks(sizes, chunk_size)
    if num_chunks > 1:
        return Computed(*backward_in_chunks(engine, views, num_chunks, loss_of), ids)
    projections: Tensor = engine.model(views)
    features = torch.stack(projections.chunk(2), dim=1)
    loss = loss_of(features)
    engine.backward(loss)
    return Computed(loss.detach(), features.detach(), ids)
