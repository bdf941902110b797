"""Train the aggregator on the bags of a round, and let it score slides and patches.

Each step takes some (positive slide, negative slide) pairs; the ranks share a step's pairs and average gradients, so any
number of ranks follows the same optimisation. Loss: algorithm step 3 (HNM-WSI's ranking loss on DSMIL).
"""

import copy
import math
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional

from hnm.aggregator.aggregators import Aggregator, Kind, build_aggregator
from hnm.aggregator.bags import Bags
from hnm.aggregator.baselines import clam_losses
from hnm.aggregator.dsmil import Packed, Prediction, segment_argmax, segment_top_mean
from hnm.aggregator.feed import Feed, Share
from hnm.aggregator.score import slide_logits
from hnm.engine.engine import Engine
from hnm.engine.engines import wrap
from hnm.engine.ranks import World, broadcast_array
from hnm.engine.step import Computed, Progress
from hnm.run.session import Session, train_epoch
from shards.seeding import numpy_generator, seeded_torch


class AggregateConfig(BaseModel):
    """How the aggregator is trained in each round (algorithm step 3)."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind = Field(
        "dsmil",
        description="the aggregator: dsmil (the method's), or to compare with: abmil, abmil_gated (Ilse et al.), clam_sb, "
        "max, mean (of the patches' logits), simlp (a small network on the mean of the features), abmilx (attention of several "
        "heads that similar patches share), transmil (self-attention of all patches, exact: its time grows with their square)",
    )
    num_members: int = Field(
        1, ge=1, description="aggregators trained side by side from different starts, whose logits are averaged; 1 = the paper"
    )
    epochs: int = Field(
        200, ge=1, description="epochs; an epoch pairs positive with negative slides until one list ends"
    )
    lr: float = Field(2e-4, gt=0, description="Adam's learning rate at the start")
    weight_decay: float = Field(1e-4, ge=0, description="Adam's weight decay (L2)")
    halve_every_epochs: float = Field(
        75.0, gt=0, description="the learning rate is halved each time this many epochs passed"
    )
    bag_weight: float = Field(0.5, ge=0, description="weight of the loss on the bag logit")
    max_weight: float = Field(0.5, ge=0, description="weight of the loss on the highest instance logit (dsmil only)")
    ranking_weight: float = Field(
        0.1, ge=0, description="weight of the ranking loss between the slides of a pair; 0 = off"
    )
    ranking_top_k: int = Field(10, ge=1, description="the ranking loss compares the means of the K highest patches")
    ranking_on: Literal["logits", "scores"] = Field(
        "logits", description="rank by instance logits (released code) or by their sigmoid (paper)"
    )
    clam_weight: float = Field(0.3, ge=0, description="weight of CLAM's loss on the patches (clam_sb only)")
    clam_top_k: int = Field(
        8, ge=1, description="patches of highest and of lowest attention that CLAM gives pseudo labels (clam_sb only)"
    )
    pairs_per_step: Annotated[int, Field(ge=1)] | Literal["ranks"] = Field(
        1,
        description="slide pairs in one optimizer step, over all ranks. ranks: as many as there are ranks, the learning rate "
        "times the root of that number (told); the result then depends on the number of ranks",
    )
    max_patches: int | None = Field(
        None,
        ge=1,
        description="patches of a slide in a training step at most, drawn anew every epoch; scoring and validation take all. "
        "null = all",
    )
    select: Literal["last", "validation"] = Field(
        "last", description="which epoch's aggregator scores: the last, or the one of lowest validation loss"
    )
    validate_every: int = Field(10, ge=1, description="epochs between looks at the validation slides")
    patience: int = Field(
        0, ge=0, description="stop when the validation loss has not been lower for more than so many epochs; 0 = never"
    )


def pair_losses(model: nn.Module, pairs: Packed, pos_weight: float, config: AggregateConfig) -> torch.Tensor:
    """Return the loss of each (positive, negative) pair, (pairs,).

    Args:
        model: the aggregator, or an engine's model of it.
        pairs: 2 p bags: first the p positive ones, then their p negative partners.
        pos_weight: number of negative over number of positive training slides. As in the released program, whose
            losses golden/ranking_pair.npz records, it scales the cross-entropy of both slides of a pair.
    """
    predictions = model(pairs)
    if isinstance(predictions, list):  # an ensemble's members, each for itself
        return torch.stack([_pair_losses(one, pairs, pos_weight, config) for one in predictions]).sum(0)
    return _pair_losses(predictions, pairs, pos_weight, config)


def _pair_losses(prediction: Prediction, pairs: Packed, pos_weight: float, config: AggregateConfig) -> torch.Tensor:
    num_bags = len(pairs.sizes)
    targets = torch.zeros_like(prediction.bag_logits)
    targets[: num_bags // 2] = 1

    def of_pair(logits: torch.Tensor) -> torch.Tensor:
        loss = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return pos_weight * loss.view(2, -1).mean(0)

    loss = config.bag_weight * of_pair(prediction.bag_logits)
    if config.kind == "dsmil":  # its highest instance logit is a second opinion on the bag
        highest = prediction.instance_logits[segment_argmax(prediction.instance_logits, pairs.bag, num_bags)]
        loss = loss + config.max_weight * of_pair(highest)
    if config.kind == "clam_sb":
        loss = loss + config.clam_weight * clam_losses(prediction, pairs, targets == 1, config.clam_top_k).view(2, -1).mean(0)
    if config.ranking_weight:
        ranked = prediction.instance_logits
        ranked = ranked.sigmoid() if config.ranking_on == "scores" else ranked
        positive, negative = segment_top_mean(ranked, pairs.bag, pairs.sizes, config.ranking_top_k).view(2, -1)
        loss = loss + config.ranking_weight * torch.relu(1 - positive + negative)
    return loss


def pair_slides(
    positives: np.ndarray, negatives: np.ndarray, pairs_per_step: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Return one epoch of steps, each (pairs, 2) of slide numbers: shuffled lists zipped until the shorter one ends."""
    count = min(len(positives), len(negatives))
    pairs = np.stack([generator.permutation(positives)[:count], generator.permutation(negatives)[:count]], axis=1)
    return [pairs[i : i + pairs_per_step] for i in range(0, count, pairs_per_step)]


def train_aggregator(bags: Bags, config: AggregateConfig, round_: int, session: Session) -> Aggregator:
    """Return a fresh aggregator trained on the bags of round `round_`. Every rank must call it; all get the same one."""
    world, journal, seed, study = session.world, session.journal, session.seed, session.study
    with seeded_torch(seed, "aggregator", round_):
        model = build_aggregator(config.kind, bags.dim, config.num_members)
    # Bags differ in size: each would be compiled anew. In bf16 this phase took three times as long as in fp32 on a CPU (colon).
    engine_config = session.engine.model_copy(update={"compile": False, "precision": "fp32"})
    engine = wrap(copy.deepcopy(model), partial(make_optimizer, config), engine_config, world)
    progress = session.resume(engine, Progress("aggregate", round_))
    model.to(world.device)
    positives = study.train[study.labels[study.train] == 1]
    negatives = study.train[study.labels[study.train] == 0]
    pos_weight = len(negatives) / len(positives)
    num_pairs, scale = pairs_and_scale(config, min(len(positives), len(negatives)), world)
    if config.pairs_per_step == "ranks":
        journal.say(f"round {round_}: {num_pairs} slide pairs a step, and aggregate.lr times {scale:.3g}, the root of that")
    epochs = range(progress.epoch, config.epochs)
    for epoch in journal.progress(epochs, f"round {round_}: aggregate", config.epochs, progress.epoch):
        if _is_stuck(progress, config, session):
            break
        engine.set_rate(learning_rate(epoch, config) * scale)
        steps = pair_slides(positives, negatives, num_pairs, numpy_generator(seed, "pairs", round_, epoch))
        feed = Feed(bags, config.max_patches, (seed, round_, epoch), world)
        compute = partial(compute_step, engine, pos_weight, config, world)
        with closing(feed.ahead(steps[progress.step :])) as shares:
            train_epoch(engine, shares, compute, progress, session)
        losses = progress.end_epoch()
        if epoch + 1 == config.epochs or (epoch + 1) % config.validate_every == 0:
            model.load_state_dict(engine.full_weights())
            _look(model, bags, losses["pairs"] / config.num_members, progress, config, session)
    model.load_state_dict(progress.best if config.select == "validation" else engine.full_weights())
    return model


def pairs_and_scale(config: AggregateConfig, num_in_epoch: int, world: World) -> tuple[int, float]:
    """Return the pairs of a step, and what the learning rate is multiplied by.

    Adam's rate grows with the root of the batch (Malladi et al., NeurIPS 2022, arXiv 2205.10287).
    """
    if config.pairs_per_step != "ranks":
        return config.pairs_per_step, 1.0
    num_pairs = min(world.size, num_in_epoch)
    return num_pairs, math.sqrt(num_pairs)


def _look(
    model: Aggregator, bags: Bags, train_loss: float, progress: Progress, config: AggregateConfig, session: Session
) -> None:
    """Look at the validation slides after an epoch: tell the losses, keep the best weights. Every rank must call it.

    All get rank 0's loss: on unlike machines it may differ in the last bit, and ranks that disagree would part.
    """
    study, world, epoch = session.study, session.world, progress.epoch - 1
    loss = bag_loss(slide_logits(model, bags, study.validation, world), study.labels[study.validation])
    loss = float(broadcast_array(np.array([loss]) if world.is_main else None, world)[0])
    step = progress.round * config.epochs + epoch
    session.journal.metrics("aggregate", step, train_loss=train_loss, validation_loss=loss)
    if progress.best_loss is None or loss < progress.best_loss:
        progress.best_loss, progress.best_epoch = loss, epoch
        progress.best = copy.deepcopy(model.state_dict())


def _is_stuck(progress: Progress, config: AggregateConfig, session: Session) -> bool:
    """Return whether training is to end before the epoch under way; asked only where the one before was looked at."""
    if not config.patience or progress.best_epoch is None or progress.epoch % config.validate_every:
        return False
    stuck = progress.epoch - 1 - progress.best_epoch > config.patience
    if stuck:
        session.journal.say(
            f"round {progress.round}: no lower validation loss since epoch {progress.best_epoch + 1}: the aggregator's training "
            f"stops after epoch {progress.epoch}; aggregate.select={config.select} decides which epoch scores"
        )
    return stuck


def learning_rate(epoch: int, config: AggregateConfig) -> float:
    """Return the rate of `epoch` (0-based): halved each time `halve_every_epochs` epochs have passed."""
    return config.lr * 0.5 ** int(epoch / config.halve_every_epochs)


def make_optimizer(config: AggregateConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
    """Return Adam at the starting rate; fused, for otherwise it takes an eighth of the time of a step on a CPU."""
    return torch.optim.Adam(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def compute_step(
    engine: Engine, pos_weight: float, config: AggregateConfig, world: World, _: int, share: Share
) -> tuple[str, Computed]:
    """Do forward and backward of this rank's share of a step. Every rank must call it."""
    losses = pair_losses(engine.model, share.packed(world.device), pos_weight, config)
    loss = losses.sum() * share.weight
    engine.backward(loss)
    return "pairs", Computed(loss.detach(), losses.detach().repeat(2), share.slides)


def bag_loss(logits: torch.Tensor, labels: np.ndarray) -> float:
    """Return the mean binary cross-entropy of both rows of `logits` (2, s) against the slide labels (s,)."""
    targets = torch.from_numpy(labels.astype(np.float32)).expand(2, -1)
    return float(functional.binary_cross_entropy_with_logits(logits, targets))
