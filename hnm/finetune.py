"""Fine-tune the encoder on what the round mined: two optimizer steps an iteration, supervised contrastive loss.

    step (a), negative-anchored:  20 % positive candidates   + 80 % hard negatives, negative-negative pairs count
    step (b), positive-anchored:   5 % self-paced positives  + 95 % hard negatives, positive-positive pairs count

One epoch is one pass of step (a) over the hard negatives. Source: algorithm step 6 (HNM-WSI, ItS2CLR eqs. 3 to 5).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from hnm.augment import AugmentConfig
from hnm.contrastive import PairMode, supcon
from hnm.contrastive_model import ContrastiveModel, for_training, project_two_views, split_batch
from hnm.mining import Mined, MiningConfig, self_paced_ratio
from hnm.session import Session
from launch.distributed import stop_unless_finite
from shards.plan import ids_of_rank, plan_mixed_epoch
from shards.seeding import numpy_generator, torch_generator


class FinetuneConfig(BaseModel):
    """How the encoder is fine-tuned in each round (algorithm step 6)."""

    model_config = ConfigDict(extra="forbid")

    epochs_per_round: int = Field(
        5, ge=1, description="epochs between two minings; an epoch passes over the hard negatives"
    )
    warmup_epochs: int = Field(5, ge=0, description="first epochs of the run, with negative-anchored steps only")
    batch_size: int = Field(512, ge=4, description="patches in a global batch, over all ranks; each gives two views")
    lr: float = Field(0.01, gt=0, description="SGD's learning rate (no momentum)")
    weight_decay: float = Field(1e-4, ge=0, description="SGD's weight decay")
    cosine_after_epoch: int = Field(10, ge=0, description="epochs of constant rate; from then on cosine to zero")
    tau: float = Field(0.07, gt=0, description="temperature of the supervised contrastive loss")
    candidate_share: float = Field(
        0.20, ge=0, lt=1, description="share of positive candidates in a negative-anchored batch"
    )
    self_paced_share: float = Field(
        0.05, ge=0, lt=1, description="share of self-paced positives in a positive-anchored batch"
    )
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="how views are made")


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
    mined: Mined, epoch: int, num_epochs: int, config: FinetuneConfig, mining: MiningConfig, seed: int
) -> list[Step]:
    """Return the optimizer steps of one epoch, the same on all ranks.

    Without a single self-paced positive (no patch above the threshold) there is nothing to anchor step (b) on, and the epoch
    has only steps (a).
    """
    candidate_rows = plan_mixed_epoch(
        mined.negatives, mined.candidates, config.batch_size, config.candidate_share, None,
        numpy_generator(seed, "negative anchored", epoch),
    )  # fmt: skip
    negative_steps = [Step(row, "negative") for row in candidate_rows]
    ratio = self_paced_ratio(epoch, config.warmup_epochs, num_epochs, mining.self_paced_start, mining.self_paced_end)
    positives = mined.self_paced(ratio, mining.ties)
    if epoch < config.warmup_epochs or len(positives) == 0:
        return negative_steps
    positive_rows = plan_mixed_epoch(
        mined.negatives, positives, config.batch_size, config.self_paced_share, len(negative_steps),
        numpy_generator(seed, "positive anchored", epoch),
    )  # fmt: skip
    pairs = zip(negative_steps, (Step(row, "positive") for row in positive_rows), strict=True)
    return [step for pair in pairs for step in pair]


def finetune(
    model: ContrastiveModel,
    mined: Mined,
    config: FinetuneConfig,
    mining: MiningConfig,
    round_: int,
    num_rounds: int,
    session: Session,
) -> int:
    """Fine-tune `model` in place for one round. Every rank must call it.

    Args:
        model: encoder and head; all ranks end with the same weights.
        mined: the round's decision, the same on all ranks.
        round_: 0-based round; the epochs of the run go on from round to round.
        num_rounds: rounds of the run, for the schedules.

    Returns:
        The number of optimizer steps taken.

    Raises:
        FloatingPointError: the loss is not finite on some rank; no rank takes that step.
    """
    world, journal, seed = session.world, session.journal, session.seed
    trained = for_training(model, world)
    optimizer = torch.optim.SGD(trained.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    num_epochs = num_rounds * config.epochs_per_round
    first, num_steps = round_ * config.epochs_per_round, 0
    for epoch in range(first, first + config.epochs_per_round):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(epoch, num_epochs, config)
        steps = plan_steps(mined, epoch, num_epochs, config, mining, seed)
        losses: dict[PairMode, list[float]] = {"negative": [], "positive": []}
        batches = _losses(trained, steps, mined, config, mining, torch_generator(seed, "views", epoch), session)
        label = f"round {round_}: fine-tune epoch {epoch + 1}/{num_epochs}"
        for step, loss in zip(steps, journal.progress(batches, label, len(steps)), strict=True):
            optimizer.zero_grad()
            loss.backward()
            losses[step.pairs].append(stop_unless_finite(loss, f"epoch {epoch}, {step.pairs}-anchored step", world))
            optimizer.step()
        num_steps += len(steps)
        journal.metrics("finetune", epoch, **{f"{k}_loss": float(np.mean(v)) for k, v in losses.items() if v})
    return num_steps


def _losses(
    model: nn.Module,
    steps: list[Step],
    mined: Mined,
    config: FinetuneConfig,
    mining: MiningConfig,
    generator: torch.Generator,
    session: Session,
) -> Iterator[torch.Tensor]:
    """Yield the loss of each step, computed with the model as it is when the loss is asked for."""
    world, study = session.world, session.study
    mine = [ids_of_rank(step.row, world.rank, world.size) for step in steps]
    for step, (ids, images) in zip(steps, session.reader.batches(mine), strict=True):
        sizes = split_batch(step.row, world)
        features = project_two_views(model, images, sizes, config.augment, generator, world)
        positive_patch = torch.from_numpy(mined.pseudo_labels[ids] == 1)
        positive_slide = torch.from_numpy(study.labels[study.cohort.patches.slide[ids]] == 1)
        yield supcon(
            features,
            positive_patch,
            positive_slide,
            sizes,
            config.tau,
            step.pairs,
            world,
            mining.mask_uncertain_negatives,
        )
