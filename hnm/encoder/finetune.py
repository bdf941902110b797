"""Fine-tune the encoder on what the round mined: two optimizer steps an iteration, supervised contrastive loss.

    step (a), negative-anchored:  20 % positive candidates   + 80 % hard negatives, negative-negative pairs count
    step (b), positive-anchored:   5 % self-paced positives  + 95 % hard negatives, positive-positive pairs count

One epoch is one pass of step (a) over the hard negatives, or over as many drawn by weight from hard and easy ones. Source:
algorithm step 6 (HNM-WSI, ItS2CLR eqs. 3 to 5); the easy ones are ours.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field

from hnm.encoder.augment import AugmentConfig
from hnm.encoder.batch_norm import refuse_chunks
from hnm.encoder.contrastive_model import ContrastiveModel, draw_views, forward_backward, split_batch, start_training
from hnm.encoder.losses import PairMode, supcon, supcon_of_targets
from hnm.encoder.parts import PartsConfig, at_warmed_rate, optimizer_of, warmed_up
from hnm.encoder.simclr import SMALLEST_BATCH
from hnm.encoder.slide_plan import SlideLossConfig
from hnm.encoder.step_curve import StepCurve
from hnm.engine.engine import Engine
from hnm.engine.step import Computed, Progress
from hnm.mining.joined import JoinedMined
from hnm.mining.mining import Mined, MiningConfig, self_paced_ratio
from hnm.run.budget import IsOver, never
from hnm.run.session import PatchBatch, Session, train_epoch
from shards.reading.plan import id_type, ids_of_rank, plan_mixed_epoch, weighted_sample
from shards.seeding import numpy_generator, torch_generator


class FinetuneConfig(PartsConfig):
    """How the encoder is fine-tuned in each round (algorithm step 6)."""

    model_config = ConfigDict(extra="forbid")

    objective: Literal["supcon", "slide", "both"] = Field(
        "supcon",
        description="what the encoder learns from: mined patches by a supervised contrastive loss (the method), the slides' "
        "labels through an aggregator that is trained with it (finetune.slide.*), or both in each step",
    )
    optimizer: Literal["sgd", "adamw"] = Field(
        "sgd", description="sgd: without momentum, the method's; adamw: for ViTs and lora; biases and norms do not decay"
    )
    epochs_per_round: int = Field(
        5, ge=1, description="epochs between two minings; an epoch passes over as many negatives as are hard"
    )
    warmup_epochs: int = Field(5, ge=0, description="first epochs of the run, with negative-anchored steps only")
    batch_size: int = Field(
        512, ge=SMALLEST_BATCH, description="patches in a global batch, over all ranks; each gives two views"
    )
    chunk_size: int = Field(
        0,
        ge=0,
        description="patches in a forward pass, per rank; 0 = all at once. Fewer take less memory and a third more time, for "
        "the same loss and gradients; not with encoder.norm=batch",
    )
    lr: float = Field(0.01, gt=0, description="learning rate; adamw wants its own, such as 1e-4 (lora: 1e-3)")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay")
    cosine_after_epoch: int = Field(10, ge=0, description="epochs of constant rate; from then on cosine to zero")
    tau: float = Field(0.07, gt=0, description="temperature of the supervised contrastive loss")
    candidate_share: float = Field(
        0.20, ge=0, lt=1, description="share of positive candidates in a negative-anchored batch"
    )
    self_paced_share: float = Field(
        0.05, ge=0, lt=1, description="share of self-paced positives in a positive-anchored batch"
    )
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="how views are made")
    slide: SlideLossConfig = Field(default_factory=SlideLossConfig, description="the slide loss")


@dataclass(frozen=True)
class Step:
    """One optimizer step of the plan: (batch,) patch ids, -1 padded, and which pairs count."""

    row: np.ndarray
    pairs: PairMode


def learning_rate(epoch: int, num_epochs: int, config: FinetuneConfig) -> float:
    """Return the rate of `epoch` (0-based over the run): constant, then half a cosine to zero at `num_epochs`."""
    start = config.cosine_after_epoch
    if epoch <= start:
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (epoch - start) / (num_epochs - start)))


def plan_steps(
    mined: Mined | JoinedMined, epoch: int, num_epochs: int, config: FinetuneConfig, mining: MiningConfig, seed: int
) -> list[Step]:
    """Return the optimizer steps of one epoch, the same on all ranks.

    Without a single self-paced positive (no patch above the threshold) there is nothing to anchor step (b) on, and the epoch
    has only steps (a).
    """
    ids = id_type(mined.num_patches)
    negatives = negatives_of_epoch(mined, numpy_generator(seed, "negatives", epoch)).astype(ids)
    in_batch = round(config.batch_size * config.candidate_share)
    num_drawn = in_batch * -(-len(negatives) // (config.batch_size - in_batch))
    candidates = candidates_of_epoch(mined, num_drawn, numpy_generator(seed, "candidates", epoch))
    candidate_rows = plan_mixed_epoch(
        negatives, candidates.astype(ids), config.batch_size, config.candidate_share, None,
        numpy_generator(seed, "negative anchored", epoch),
    )  # fmt: skip
    negative_steps = [Step(row, "negative") for row in candidate_rows]
    ratio = self_paced_ratio(epoch, config.warmup_epochs, num_epochs, mining.self_paced_start, mining.self_paced_end)
    num_drawn = round(config.batch_size * config.self_paced_share) * len(negative_steps)
    positives = self_paced_of_epoch(mined, ratio, mining, num_drawn, numpy_generator(seed, "self-paced", epoch)).astype(ids)
    if epoch < config.warmup_epochs or len(positives) == 0:
        return negative_steps
    positive_rows = plan_mixed_epoch(
        negatives, positives, config.batch_size, config.self_paced_share, len(negative_steps),
        numpy_generator(seed, "positive anchored", epoch),
    )  # fmt: skip
    pairs = zip(negative_steps, (Step(row, "positive") for row in positive_rows), strict=True)
    return [step for pair in pairs for step in pair]


def negatives_of_epoch(mined: Mined | JoinedMined, generator: np.random.Generator) -> np.ndarray:
    """Return the negatives that an epoch passes over, increasing int64 ids: as many as are hard, drawn by weight.

    Where no other patch of pseudo label 0 has a weight they are the hard ones. Where easy ones have some (mining.hard_share),
    or of several targets, every epoch sees others.
    """
    if isinstance(mined, JoinedMined):
        return mined.draw_negatives(generator)
    if not mined.has_easy:
        return mined.negatives
    return weighted_sample(mined.weights, len(mined.negatives), generator, mined.pseudo_labels)


def candidates_of_epoch(mined: Mined | JoinedMined, num: int, generator: np.random.Generator) -> np.ndarray:
    """Return the positive candidates that an epoch draws `num` from: all, or of several targets about so many, evenly."""
    return mined.draw_candidates(num, generator) if isinstance(mined, JoinedMined) else mined.candidates


def self_paced_of_epoch(
    mined: Mined | JoinedMined, ratio: float, mining: MiningConfig, num: int, generator: np.random.Generator
) -> np.ndarray:
    """Return the self-paced positives likewise, `ratio` of the candidates."""
    if isinstance(mined, JoinedMined):
        return mined.draw_self_paced(ratio, mining.ties, num, generator)
    return mined.self_paced(ratio, mining.ties)


def finetune(
    model: ContrastiveModel,
    mined: Mined | JoinedMined,
    config: FinetuneConfig,
    mining: MiningConfig,
    round_: int,
    num_rounds: int,
    session: Session,
    steps_before: int = 0,
    is_over: IsOver = never,
) -> tuple[dict[str, torch.Tensor], int]:
    """Fine-tune `model` for one round. Every rank must call it.

    Args:
        model: encoder and head, after `choose_parts`; not to be used afterwards (ZeRO 3 cuts it up).
        mined: the round's decision, the same on all ranks.
        round_: 0-based round; the epochs of the run go on from round to round.
        num_rounds: rounds of the run, for the schedules.
        steps_before: optimizer steps of earlier rounds, for the step axis of what is told.
        is_over: asked on every rank after each epoch whether this fine-tuning ends there.

    Returns:
        The trained weights, the same on all ranks, and the number of optimizer steps taken.

    Raises:
        FloatingPointError: loss or gradient is not finite on some rank; no rank takes that step.
    """
    journal, world = session.journal, session.world
    refuse_chunks(model, config.chunk_size, "finetune.chunk_size", model.fixed_norms)
    engine = start_training(model, optimizer_of(model, config, partial(make_optimizer, config)), session.engine, world)
    num_epochs = num_rounds * config.epochs_per_round
    first = round_ * config.epochs_per_round
    progress = session.resume(engine, Progress("finetune", round_, first))

    def rate_of(taken: Progress) -> float:
        return warmed_up(learning_rate(taken.epoch, num_epochs, config), taken.num_steps - 1, config)

    for epoch in range(progress.epoch, first + config.epochs_per_round):
        rate = learning_rate(epoch, num_epochs, config)
        engine.set_rate(rate)
        steps = plan_steps(mined, epoch, num_epochs, config, mining, session.seed)
        compute = partial(compute_step, engine, mined, config, mining, session, epoch, steps)
        mine = (ids_of_rank(step.row, world.rank, world.size) for step in steps[progress.step :])
        label = f"round {round_}: fine-tune epoch {epoch + 1}/{num_epochs}"
        epochs_left = first + config.epochs_per_round - epoch - 1
        batches = journal.progress(session.reader.batches(mine), label, len(steps), progress.step, epochs_left)
        rows, done = [step.row for step in steps], progress.step
        curve = StepCurve(journal, "step_{kind}_loss", rows, config.epochs_per_round, rate_of, done, steps_before)
        warmed = at_warmed_rate(engine, rate, progress, config, compute)
        train_epoch(engine, batches, warmed, progress, session, curve.step_taken)
        journal.metrics("finetune", epoch, **{f"{kind}_loss": loss for kind, loss in progress.end_epoch().items()})
        if is_over(progress):
            break
    return engine.full_weights(), progress.num_steps


def make_optimizer(config: FinetuneConfig, parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """Return SGD without momentum, or AdamW; its rate is set before each epoch, or step."""
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(parameters, lr=config.lr, weight_decay=config.weight_decay)


def compute_step(
    engine: Engine,
    mined: Mined | JoinedMined,
    config: FinetuneConfig,
    mining: MiningConfig,
    session: Session,
    epoch: int,
    steps: list[Step],
    number: int,
    batch: PatchBatch,
) -> tuple[str, Computed]:
    """Do forward and backward of step `number` of an epoch. Every rank must call it."""
    step, (ids, images) = steps[number], batch
    loss_of, sizes, views = supcon_of_step(step, ids, images, mined, config, mining, session, epoch, number)
    return step.pairs, forward_backward(engine, views, ids, sizes, config.chunk_size, loss_of)


def supcon_of_step(
    step: Step,
    ids: np.ndarray,
    images: torch.Tensor,
    mined: Mined | JoinedMined,
    config: FinetuneConfig,
    mining: MiningConfig,
    session: Session,
    epoch: int,
    number: int,
) -> tuple[Callable[[torch.Tensor], torch.Tensor], list[int], torch.Tensor]:
    """Return a step's loss of projections (local patches, 2, dim), the patches on every rank, and this rank's views."""
    world, study = session.world, session.study
    sizes = split_batch(step.row, world)
    views = draw_views(images, sizes, config.augment, torch_generator(session.seed, "views", epoch, number), world)
    if isinstance(mined, JoinedMined):
        codes = torch.from_numpy(mined.codes(ids, study.cohort.patches.slide[ids]))
        return partial(supcon_of_targets, codes=codes, sizes=sizes, tau=config.tau, pairs=step.pairs, world=world), sizes, views
    positive_patch = torch.from_numpy(mined.pseudo_labels[ids] == 1)
    positive_slide = torch.from_numpy(study.labels[study.cohort.patches.slide[ids]] == 1)

    def loss_of(features: torch.Tensor) -> torch.Tensor:
        return supcon(
            features,
            positive_patch,
            positive_slide,
            sizes,
            config.tau,
            step.pairs,
            world,
            mining.mask_uncertain_negatives,
        )

    return loss_of, sizes, views
