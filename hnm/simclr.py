"""SimCLR pretraining: NT-Xent over the global batch on the training patches, no labels (algorithm step 1)."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from hnm.augment import AugmentConfig
from hnm.contrastive import nt_xent
from hnm.contrastive_model import for_training, fresh_model, project_two_views, save_model, split_batch
from hnm.encoder import EncoderConfig
from hnm.session import Session
from hnm.study import Study
from launch.distributed import World, barrier, stop_unless_finite
from shards.errors import InputError
from shards.plan import ids_of_rank, plan_epoch
from shards.seeding import numpy_generator, torch_generator


class PretrainConfig(BaseModel):
    """How the first encoder is made."""

    model_config = ConfigDict(extra="forbid")

    epochs: int = Field(100, ge=1, description="passes over the training patches")
    batch_size: int = Field(512, ge=4, description="patches in a global batch, over all ranks; each gives two views")
    lr: float = Field(1e-3, gt=0, description="Adam's peak learning rate; cosine to zero over the run")
    weight_decay: float = Field(1e-5, ge=0, description="Adam's weight decay (L2)")
    tau: float = Field(0.5, gt=0, description="temperature of NT-Xent")
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="how views are made")


def require_batch(num_patches: int, batch_size: int, what: str, key: str, world: World) -> None:
    """Refuse a batch that the patches cannot fill, or that leaves a rank without a pair.

    Raises:
        InputError: naming the config key and the remedy.
    """
    if num_patches < batch_size:
        raise InputError(
            f"{key} is {batch_size}, but there are only {num_patches} {what}. Set {key} to at most {num_patches}"
        )
    if batch_size < 2 * world.size:
        raise InputError(
            f"{key} is {batch_size}, too small for {world.size} ranks: set it to at least {2 * world.size}"
        )


def check_batch(config: PretrainConfig, study: Study, world: World) -> None:
    """Refuse a batch that the training patches cannot fill.

    Raises:
        InputError: naming the config key and the remedy.
    """
    num_patches = study.num_patches_of(np.flatnonzero(study.encoder_slides))
    require_batch(num_patches, config.batch_size, "training patches", "pretrain.batch_size", world)


def pretrain(encoder: EncoderConfig, config: PretrainConfig, out: Path, session: Session) -> int:
    """Train an encoder with its head from scratch and write it to `out` (safetensors). Every rank must call it.

    Returns:
        The number of optimizer steps.

    Raises:
        InputError: there are fewer training patches than a batch.
        FloatingPointError: the loss is not finite.
    """
    world, journal = session.world, session.journal
    ids = session.study.encoder_patches
    check_batch(config, session.study, world)
    model = fresh_model(encoder, session.seed)
    trained = for_training(model, world)
    optimizer = torch.optim.Adam(trained.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    steps_per_epoch = math.ceil(len(ids) / config.batch_size)
    num_steps = config.epochs * steps_per_epoch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    journal.say(f"pretrain: {len(ids):,} patches, {config.epochs} epochs, {num_steps} steps on {world.size} rank(s)")
    total = 0.0
    batches = journal.progress(_losses(trained, ids, config, session), "pretrain", num_steps)
    for step, loss in enumerate(batches, start=1):
        optimizer.zero_grad()
        loss.backward()
        total += stop_unless_finite(loss, f"pretraining step {step}", world)
        optimizer.step()
        schedule.step()
        if step % steps_per_epoch == 0:
            journal.metrics("pretrain", step, loss=total / steps_per_epoch)
            total = 0.0
    if world.is_main:
        save_model(out, model, {"encoder": encoder.model_dump_json(), "cohort": session.study.cohort.fingerprint})
    barrier(world)
    return num_steps


def _losses(model: nn.Module, ids: np.ndarray, config: PretrainConfig, session: Session) -> Iterator[torch.Tensor]:
    """Yield the loss of each step, computed with the model as it is when the loss is asked for."""
    world = session.world
    for epoch in range(config.epochs):
        plan = plan_epoch(ids, config.batch_size, numpy_generator(session.seed, "pretrain", epoch))
        generator = torch_generator(session.seed, "pretrain views", epoch)
        mine = [ids_of_rank(row, world.rank, world.size) for row in plan]
        for row, (_, images) in zip(plan, session.reader.batches(mine), strict=True):
            sizes = split_batch(row, world)
            features = project_two_views(model, images, sizes, config.augment, generator, world)
            yield nt_xent(features, sizes, config.tau, world)
