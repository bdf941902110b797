"""What every phase of a run is handed: the data, the ranks, how to train, and where to tell what happens."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch

from hnm.engine.engine import Engine, EngineConfig
from hnm.engine.ranks import World
from hnm.engine.step import Computed, Keeper, Progress, take_step
from hnm.run.journal import Journal
from hnm.run.study import Study
from shards.reading.reader import PatchReader
from shards.seeding import seeded_torch


@dataclass(frozen=True)
class Session:
    """One process's part in one run.

    Attributes:
        study: the cohort and the parts its slides play.
        reader: reads patches by id.
        seed: the run's seed; generators are derived from it by purpose.
        world: who this rank is.
        journal: progress, metrics, log.
        engine: how modules are trained.
        keeper: keeps trainings at step boundaries; None keeps nothing.
    """

    study: Study
    reader: PatchReader
    seed: int
    world: World
    journal: Journal
    engine: EngineConfig = field(default_factory=EngineConfig)
    keeper: Keeper | None = None

    def of_target(self, target: int) -> "Session":
        """Return the part in one of several targets: with its study, and told, counted and kept under its name."""
        targets = self.study.targets
        assert targets is not None
        keeper = self.keeper.of_target(targets.keys[target]) if self.keeper is not None else None
        journal = self.journal.of_target(targets.names[target])
        return replace(self, study=self.study.of_target(target), journal=journal, keeper=keeper)

    def resume(self, engine: Engine, progress: Progress) -> Progress:
        """Bring a training to where it was kept last, if it was; return its progress. Every rank must call it."""
        if self.keeper is not None:
            self.keeper.resume(engine, progress)
        return progress

    def stop_if_asked(self) -> None:
        """End the run if a rank was asked to stop, where there is nothing to keep. Every rank must call it."""
        if self.keeper is not None:
            self.keeper.stop_if_asked()


Batch = TypeVar("Batch")


PatchBatch = tuple[np.ndarray, torch.Tensor]  # (n,) patch ids, (n, 3, h, w) uint8


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

