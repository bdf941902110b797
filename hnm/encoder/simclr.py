"""SimCLR pretraining: NT-Xent over the global batch on the training patches, no labels (algorithm step 1)."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field

from hnm.encoder.augment import AugmentConfig
from hnm.encoder.batch_norm import refuse_chunks
from hnm.encoder.contrastive_model import (
    draw_views,
    forward_backward,
    fresh_model,
    load_model,
    split_batch,
    start_training,
)
from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.losses import nt_xent
from hnm.encoder.networks import metadata_of
from hnm.encoder.parts import PartsConfig, choose_parts, optimizer_of, warmed_up
from hnm.encoder.step_curve import StepCurve
from hnm.encoder.suits import tell_encoder
from hnm.encoder.trained_file import left_out_base, save_trained
from hnm.engine.engine import Engine
from hnm.engine.ranks import World, barrier, seen
from hnm.engine.step import Computed, Progress
from hnm.run.session import PatchBatch, Session, train_epoch
from hnm.run.study import Study
from shards.errors import InputError
from shards.reading.plan import ids_of_rank, plan_epoch
from shards.seeding import numpy_generator, torch_generator

SMALLEST_BATCH = 4  # patches; and two a rank


class PretrainConfig(PartsConfig):
    """How the first encoder is made."""

    model_config = ConfigDict(extra="forbid")

    optimizer: Literal["adam", "adamw"] = Field(
        "adam", description="adam: its weight decay is L2; adamw: decoupled; biases and norms do not decay"
    )
    epochs: int = Field(100, ge=1, description="passes over the training patches")
    batch_size: int = Field(
        512, ge=SMALLEST_BATCH, description="patches in a global batch, over all ranks; each gives two views"
    )
    chunk_size: int = Field(
        0,
        ge=0,
        description="patches in a forward pass, per rank; 0 = all at once. Fewer take less memory and a third more time, for "
        "the same loss and gradients; not with encoder.norm=batch",
    )
    lr: float = Field(1e-3, gt=0, description="peak learning rate; cosine to zero over the run")
    weight_decay: float = Field(1e-5, ge=0, description="weight decay")
    tau: float = Field(0.5, gt=0, description="temperature of NT-Xent")
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="how views are made")


def require_batch(num_patches: int, batch_size: int, what: str, key: str, world: World, more: str) -> None:
    """Refuse a batch that the patches cannot fill, or that leaves a rank without a pair.

    Args:
        more: how to have more patches, where there are too few for any batch.

    Raises:
        InputError: naming the config key and the remedy.
    """
    smallest = max(SMALLEST_BATCH, 2 * world.size)
    if num_patches < batch_size:
        remedy = f"Set {key} to at most {num_patches}"
        if num_patches < smallest:
            remedy = f"That is too few for any batch: {world.size} rank(s) need at least {smallest}. {more}"
        raise InputError(f"{key} is {batch_size}, but there are only {num_patches} {what}. {remedy}")
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
    more = "Take fewer ranks or more training slides, or add validation to data.encoder_splits"
    require_batch(num_patches, config.batch_size, "training patches", "pretrain.batch_size", world, more)


def steps_per_epoch(num_patches: int, config: PretrainConfig) -> int:
    """Return the optimizer steps of a pass over the training patches."""
    return math.ceil(num_patches / config.batch_size)


def learning_rate(step: int, num_steps: int, config: PretrainConfig) -> float:
    """Return the rate of `step` (0-based over the run): half a cosine from `lr` to zero at `num_steps`, after a warm-up."""
    return warmed_up(config.lr * 0.5 * (1 + math.cos(math.pi * step / num_steps)), step, config)


def pretrain(
    encoder: EncoderConfig,
    config: PretrainConfig,
    out: Path,
    session: Session,
    before_file: Callable[..., None] = lambda steps: None,
    start: Path | None = None,
) -> int:
    """Train an encoder with its head and write it to `out` (safetensors). Every rank must call it.

    Args:
        start: the weights to go on from, as `write_start` wrote them; None: from scratch.
        before_file: called with steps=... when training is done, before the file is written.

    Returns:
        The number of optimizer steps.

    Raises:
        InputError: there are fewer training patches than a batch.
        FloatingPointError: loss or gradient is not finite on some rank.
    """
    world, journal, seed = session.world, session.journal, session.seed
    num_patches = session.study.num_patches_of(np.flatnonzero(session.study.encoder_slides))
    check_batch(config, session.study, world)
    if start is None and config.train != "all":
        raise InputError(
            f"pretrain.train is {config.train}, but there is no encoder to freeze a part of: hnm pretrain COHORT OUT --encoder "
            "FILE, or pretrain.train=all"
        )
    model = load_model(seen(start, world), encoder, seed) if start else fresh_model(encoder, seed)
    tell_encoder(model.encoder, session)
    if told := choose_parts(model, config, "pretrain", seed):
        journal.say(told)
    about, base = metadata_of(model.encoder), left_out_base(start) if start else None
    refuse_chunks(model, config.chunk_size, "pretrain.chunk_size", model.fixed_norms)
    engine = start_training(model, optimizer_of(model, config, partial(make_optimizer, config)), session.engine, world)
    progress = session.resume(engine, Progress("pretrain"))
    num_steps = config.epochs * steps_per_epoch(num_patches, config)
    journal.say(f"pretrain: {num_patches:,} patches, {config.epochs} epochs, {num_steps} steps on {world.size} rank(s)")

    def rate_of(taken: Progress) -> float:
        return learning_rate(taken.num_steps - 1, num_steps, config)

    for epoch in range(progress.epoch, config.epochs):
        plan = plan_epoch(session.study.encoder_patches, config.batch_size, numpy_generator(seed, "pretrain", epoch))
        compute = partial(compute_step, engine, config, session, epoch, plan)
        mine = (ids_of_rank(row, world.rank, world.size) for row in plan[progress.step :])
        batches = journal.progress(session.reader.batches(mine), "pretrain", num_steps, progress.num_steps)
        curve = StepCurve(journal, "step_loss", plan, config.epochs, rate_of, progress.step)
        train_epoch(engine, batches, compute, progress, session, curve.step_taken)
        journal.metrics("pretrain", progress.num_steps, **progress.end_epoch())
    weights = engine.full_weights()
    before_file(steps=num_steps)
    if world.is_main:
        about |= {"encoder": encoder.model_dump_json(), "cohort": session.study.cohort.fingerprint}
        save_trained(out, weights, about, base if config.train == "lora" else None)
    barrier(world)
    return num_steps


def compute_step(
    engine: Engine,
    config: PretrainConfig,
    session: Session,
    epoch: int,
    plan: np.ndarray,
    step: int,
    batch: PatchBatch,
) -> tuple[str, Computed]:
    """Do forward and backward of one step. Every rank must call it."""
    world, (ids, images) = session.world, batch
    engine.set_rate(learning_rate(epoch * len(plan) + step, config.epochs * len(plan), config))
    sizes = split_batch(plan[step], world)
    generator = torch_generator(session.seed, "pretrain views", epoch, step)
    views = draw_views(images, sizes, config.augment, generator, world)

    def loss_of(features: torch.Tensor) -> torch.Tensor:
        return nt_xent(features, sizes, config.tau, world)

    return "loss", forward_backward(engine, views, ids, sizes, config.chunk_size, loss_of)


def make_optimizer(config: PretrainConfig, parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """Return Adam or AdamW; its rate is set before each step."""
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.Adam(parameters, lr=config.lr, weight_decay=config.weight_decay)
