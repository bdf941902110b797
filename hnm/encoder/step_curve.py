"""The loss of a training between the ends of its epochs: one epoch over 10^8 patches would be one point.

    a step is taken ──every n-th──▶ a line "step" in events.jsonl ──▶ MLflow: PHASE/step_loss, step_lr, step_images_per_s

Which steps are told depends on the plan alone: a run that was stopped and gone on with tells the same ones.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

from hnm.engine.step import Progress
from hnm.run.journal import Journal
from shards.reading.plan import PADDING

MAX_POINTS = 200  # a phase of a round


def spacing(num_steps: int) -> int:
    """Return every how many steps a phase of `num_steps` is told. It is odd: of two kinds that take turns both are told."""
    return -(-num_steps // MAX_POINTS) | 1


class StepCurve:
    """Tells the course of one epoch of a contrastive training, on rank 0.

    Args:
        journal: where it is told.
        loss_name: the loss's name; "{kind}" in it stands for the kind of step.
        rows: the epoch's steps, each (batch,) patch ids of all ranks, -1 padded.
        num_epochs: epochs of the phase, taken to be as long as this one: they share the points.
        rate_of: returns the learning rate of the step that was counted last.
        first_row: the first step of the epoch that this process takes.
        steps_before: optimizer steps of earlier rounds: MLflow's axis goes on from there.
    """

    def __init__(
        self,
        journal: Journal,
        loss_name: str,
        rows: Sequence[np.ndarray] | np.ndarray,
        num_epochs: int,
        rate_of: Callable[[Progress], float],
        first_row: int = 0,
        steps_before: int = 0,
    ) -> None:
        self.journal, self.loss_name, self.rows, self.rate_of = journal, loss_name, rows, rate_of
        self.every, self.steps_before = spacing(len(rows) * num_epochs), steps_before
        self._told, self._told_at = first_row, time.monotonic()

    def step_taken(self, progress: Progress, kind: str, loss: float) -> None:
        """Tell the step that was just counted, if its turn has come.

        Args:
            progress: after the step.
            kind: of the step.
            loss: of the step, over all ranks.
        """
        if progress.num_steps % self.every or not self.journal.world.is_main:
            return
        now, rows = time.monotonic(), self.rows[self._told : progress.step]
        num_images = sum(int(np.count_nonzero(row != PADDING)) for row in rows)
        figures = {
            self.loss_name.format(kind=kind): loss,
            "step_lr": self.rate_of(progress),
            "step_images_per_s": round(num_images / max(now - self._told_at, 1e-6), 1),
        }
        self._told, self._told_at = progress.step, now
        epoch = progress.epoch + progress.step / len(self.rows)
        self.journal.point(progress.phase, self.steps_before + progress.num_steps, epoch, **figures)
