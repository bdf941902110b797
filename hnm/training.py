"""What all trainings share: the steps of an epoch, one after another, and how far they have come.

    plan of an epoch ──[progress.step :]──▶ batch ──compute: forward, backward──▶ take_step ──▶ step boundary (keeper)

Every batch, every augmentation and every learning rate is a function of (seed, phase, epoch, step): engine and progress are
all that a run needs to go on from a step boundary.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch

from launch.engine import Computed, Engine, take_step
from shards.seeding import seeded_torch

if TYPE_CHECKING:
    from hnm.session import Session

Batch = TypeVar("Batch")
PatchBatch = tuple[np.ndarray, torch.Tensor]  # (n,) patch ids, (n, 3, h, w) uint8


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
    """

    phase: str
    round: int = 0
    epoch: int = 0
    step: int = 0
    num_steps: int = 0
    losses: dict[str, tuple[float, int]] = field(default_factory=dict)
    best_loss: float | None = None
    best: dict[str, torch.Tensor] = field(default_factory=dict)

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

    def resume(self, engine: Engine, progress: Progress) -> None:
        """Bring both to where this phase and round was kept last, if it was."""

    def step_taken(self, engine: Engine, progress: Progress) -> None:
        """Keep both, if it is time to; called after every step. Raises to end the run, when it was asked to stop."""

    def stop_if_asked(self) -> None:
        """Raise to end the run, if it was asked to stop; for phases that have nothing to keep."""

    def phase_ended(self) -> None:
        """Forget what was kept of phases whose final file stands."""


def train_epoch(
    engine: Engine,
    batches: Iterable[Batch],
    compute: Callable[[int, Batch], tuple[str, Computed]],
    progress: Progress,
    session: "Session",
    tell: Callable[[Progress, str, float], None] | None = None,
) -> None:
    """Take the steps of the epoch under way, from `progress.step` on. Every rank must call it.

    Args:
        batches: this rank's batch of each of those steps.
        compute: does forward and backward of (step of the epoch, batch) on `engine`; returns the loss's kind and what came
            out. Torch's global generators are seeded for the step and this rank, for models that draw (dropout).
        progress: counts the steps.
        tell: is told progress, kind and loss after each step, before it is kept.

    Raises:
        FloatingPointError: something is not finite on some rank; no rank takes that step.
    """
    world = session.world
    for batch in batches:
        with seeded_torch(session.seed, progress.phase, progress.round, progress.epoch, progress.step, world.rank):
            kind, computed = compute(progress.step, batch)
        where = f"{progress.phase} epoch {progress.epoch}, step {progress.step} ({kind})"
        loss = take_step(engine, computed, where, session.engine.clip_norm, world)
        progress.count_step(kind, loss)
        if tell is not None:
            tell(progress, kind, loss)
        if session.keeper is not None:
            session.keeper.step_taken(engine, progress)
