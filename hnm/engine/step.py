"""One optimizer step over all ranks: all finite? clip, step; and how far a phase's steps have come."""

import math
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from hnm.engine.engine import Engine
from hnm.engine.ranks import World, sum_over_ranks

NUM_NAMED = 8  # items that the message of a stop names


@dataclass(frozen=True)
class Computed:
    """What this rank's forward and backward pass of one step gave.

    Attributes:
        loss: scalar; its mean over the ranks is the loss of the step.
        outputs: (items, ...) the model's answer for each of this rank's items.
        ids: (items,) patch ids or slide numbers, for the message of a stop.
    """

    loss: Tensor
    outputs: Tensor
    ids: np.ndarray


def take_step(engine: Engine, computed: Computed, where: str, clip_norm: float | None, world: World) -> float:
    """Take the optimizer step after a backward pass, unless something is not finite on some rank: then nobody takes it.

    Every rank must call it. One message of 2 * ranks + 1 numbers carries all that has to be agreed on.

    Args:
        where: phase, epoch and step, for the message of a stop.
        clip_norm: see EngineConfig.

    Returns:
        The loss, the same on all ranks.

    Raises:
        FloatingPointError: on every rank, naming the ranks and their items.
    """
    figures = torch.zeros(2 * world.size + 1, dtype=torch.float64)
    own = (computed.loss.detach(), _broken(computed).sum(), engine.squared_norm())
    on_cpu = torch.stack([figure.to(computed.loss.device, torch.float64) for figure in own]).cpu()  # the one wait for a GPU
    figures[world.rank], figures[world.size + world.rank], figures[-1] = on_cpu
    figures = sum_over_ranks(figures, world)
    losses, num_broken = figures[: world.size], figures[world.size : -1]
    norm = math.sqrt(figures[-1]) if figures[-1] >= 0 else math.nan
    if not figures.isfinite().all() or num_broken.any():
        bad_ranks = num_broken > 0 if num_broken.any() else ~losses.isfinite()
        raise FloatingPointError(_explain(computed, losses, norm, bad_ranks, where, world))
    too_long = clip_norm is not None and norm > clip_norm
    engine.step(clip_norm / norm if too_long and clip_norm else 1.0)
    return float(losses.mean())


def _broken(computed: Computed) -> Tensor:
    """Return which of this rank's items the model gave no finite answer for, (items,) bool."""
    return ~computed.outputs.detach().reshape(len(computed.ids), -1).isfinite().all(1)


def _explain(computed: Computed, losses: Tensor, norm: float, bad_ranks: Tensor, where: str, world: World) -> str:
    """Return the message of a stop, the same on all ranks. Every rank must call it."""
    broken = _broken(computed).cpu().numpy()
    ids = np.unique(computed.ids[broken] if broken.any() else computed.ids)[:NUM_NAMED]
    named = torch.zeros(world.size, NUM_NAMED, dtype=torch.int64)  # id + 1; 0 = none
    named[world.rank, : len(ids)] = torch.from_numpy(ids.astype(np.int64)) + 1
    named = sum_over_ranks(named, world)
    what = f"loss is {float(losses.mean())}"
    if losses.isfinite().all():
        what = f"the gradient's norm is {norm}"
    ranks = [
        f"rank {rank}: loss {float(losses[rank])}, ids {[int(i) - 1 for i in named[rank] if i > 0]}"
        for rank in range(world.size)
        if bad_ranks[rank] or not bad_ranks.any()
    ]
    return f"{what} at {where} ({'; '.join(ranks)}); lower the learning rate, raise tau, or set engine.clip_norm"


@dataclass
class Progress:
    """How far a phase has come.

    Attributes:
        phase: "pretrain", "finetune" or "aggregate".
        round: 0-based round, 0 in pretraining.
        epoch: 0-based epoch under way; fine-tuning counts epochs over the whole run.
        step: optimizer steps taken in this epoch.
        num_steps: optimizer steps taken in this phase and round.
        losses: sum and number of this epoch's losses, by kind.
        best_loss: the lowest validation loss so far, if the phase looks at one.
        best: the weights that had it.
        best_epoch: the 0-based epoch that they are of, where a phase may stop early.
        average: a moving average of the weights, where a phase keeps one.
    """

    phase: str
    round: int = 0
    epoch: int = 0
    step: int = 0
    num_steps: int = 0
    losses: dict[str, tuple[float, int]] = field(default_factory=dict)
    best_loss: float | None = None
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    best_epoch: int | None = None
    average: dict[str, torch.Tensor] = field(default_factory=dict)

    def count_step(self, kind: str, loss: float) -> None:
        """Note that a step was taken."""
        total, number = self.losses.get(kind, (0.0, 0))
        self.losses[kind] = (total + loss, number + 1)
        self.step += 1
        self.num_steps += 1

    def end_epoch(self) -> dict[str, float]:
        """Go on to the next epoch; return the mean losses of the one that ended, by kind."""
        means = {kind: total / number for kind, (total, number) in self.losses.items()}
        self.epoch, self.step, self.losses = self.epoch + 1, 0, {}
        return means


class Keeper(Protocol):
    """Keeps trainings, so that they go on after a stop. Every rank must make the same calls in the same order."""

    def of_target(self, key: str) -> Self:
        """Return the keeper of one of several targets' own phases."""

    def resume(self, engine: Engine, progress: Progress) -> None:
        """Bring both to where this phase and round was kept last, if it was."""

    def step_taken(self, engine: Engine, progress: Progress) -> None:
        """Keep both, if it is time to; called after every step. Raises to end the run, when it was asked to stop."""

    def stop_if_asked(self) -> None:
        """Raise to end the run, if it was asked to stop; for phases that have nothing to keep."""

    def phase_ended(self) -> None:
        """Forget what was kept of phases whose final file stands."""

