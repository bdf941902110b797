"""The keeper of one run: after every step the ranks agree whether to save, and whether to stop.

    step taken ──▶ [one sum over the ranks: asked to stop? time to save?] ──▶ checkpoint ──▶ go on, or Preempted on all ranks
"""

import copy
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import torch

from hnm.engine.checkpoint import (
    MANIFEST,
    CheckpointConfig,
    Identity,
    latest_whole,
    list_checkpoints,
    read_progress,
    seal,
    step_folder,
    sweep,
    temporary_folder,
    write_progress,
)
from hnm.engine.engine import Engine
from hnm.engine.ranks import TimeoutConfig, World, broadcast_array, seen, sum_over_ranks, wait_at_most, wait_until_seen
from hnm.engine.step import Progress
from hnm.run.journal import Journal
from hnm.run.targets import TARGETS_FOLDER
from launch.process.preemption import Preempted, StopSignals
from shards.errors import InputError
from shards.files import NO_ROOM


class SaveError(InputError):
    """A checkpoint could not be written; the last whole one is where it was."""


class RunKeeper:
    """Saves trainings, brings them back, and ends the run when it is asked to (the `Keeper` of hnm/run/session.py).

    Args:
        run: the run's folder.
        folder_of: (phase, round) -> the folder of the phase's checkpoints, beside its final file.
        identity: what the run is: cohort, seed, settings. A checkpoint of anything else is refused.
        config: how often.
        timeouts: how long ranks wait for each other.
        signals: what asks this process to stop.
        journal: where refused checkpoints are told.
    """

    def __init__(
        self,
        run: Path,
        folder_of: Callable[[str, int], Path],
        identity: Identity,
        config: CheckpointConfig,
        timeouts: TimeoutConfig,
        signals: StopSignals,
        journal: Journal,
    ) -> None:
        self.run, self.folder_of, self.identity = run, folder_of, identity
        self.config, self.timeouts, self.signals, self.journal = config, timeouts, signals, journal
        self.world: World = journal.world
        self.last_save = time.monotonic()
        self.is_first_step = True

    def of_target(self, key: str) -> Self:
        """Return the keeper of one of several targets' own phases: their checkpoints lie in the target's folder."""
        keeper, folder_of = copy.copy(self), self.folder_of
        keeper.run = self.run / TARGETS_FOLDER / key
        keeper.folder_of = lambda phase, round_: keeper.run / folder_of(phase, round_).relative_to(self.run)
        keeper.identity = {**self.identity, "target": key}
        return keeper

    def resume(self, engine: Engine, progress: Progress) -> None:
        """Bring both to the last whole checkpoint of their phase and round, if there is one. Every rank must call it."""
        self.last_save, self.is_first_step = time.monotonic(), True
        folder = self.folder_of(progress.phase, progress.round)
        found = latest_whole(folder, self._identity(progress), self._warn) if self.world.is_main else None
        number = np.array([int(found.name[5:]) if found else -1])
        num_steps = int(broadcast_array(number if self.world.is_main else None, self.world)[0])
        if num_steps < 0:
            return
        found = seen(step_folder(folder, num_steps), self.world)
        wait_until_seen(found, [MANIFEST], self.world)
        engine.load(found)
        read_progress(found, progress)
        self.journal.event("resumed", phase=progress.phase, round=progress.round, step=num_steps)
        self.journal.say(f"round {progress.round}: {progress.phase} goes on after step {num_steps}")

    def step_taken(self, engine: Engine, progress: Progress) -> None:
        """Save, if it is time to or a rank was asked to stop. Every rank must call it, after every step.

        Raises:
            SaveError: on every rank: the checkpoint could not be written.
            Preempted: on every rank: saved, now leave.
        """
        if self.is_first_step:
            self.is_first_step = False
            wait_at_most(self.timeouts.step_s, self.world)
        minutes = (time.monotonic() - self.last_save) / 60
        is_time = self.world.is_main and 0 < self.config.every_minutes <= minutes  # rank 0's clock decides
        stop, is_time = self._any(self.signals.requested is not None, is_time)
        is_time |= self.config.every_steps > 0 and progress.num_steps % self.config.every_steps == 0
        if stop or is_time:
            self.save(engine, progress)
        if stop:
            raise Preempted(f"stopped and saved: {progress.phase} of round {progress.round}, step {progress.num_steps}")

    def stop_if_asked(self) -> None:
        """End the run if a rank was asked to stop. Every rank must call it: where there is nothing to save.

        Raises:
            Preempted: on every rank.
        """
        if self._any(self.signals.requested is not None)[0]:
            raise Preempted("stopped between two pieces of work")

    def phase_ended(self) -> None:
        """Remove the checkpoints of what is done. Every rank must call it, when the phase's final file stands."""
        wait_at_most(self.timeouts.start_s, self.world)
        if self.world.is_main:
            sweep(self.run)

    def save(self, engine: Engine, progress: Progress) -> None:
        """Write a checkpoint. Every rank must call it.

        Raises:
            SaveError: on every rank.
        """
        folder = self.folder_of(progress.phase, progress.round)
        temporary, final = temporary_folder(folder, progress.num_steps), step_folder(folder, progress.num_steps)
        failure: OSError | None = None
        try:
            if self.world.is_main:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
            engine.save(temporary)
            if self.world.is_main:
                write_progress(temporary, progress)
                seal(temporary, final, self._identity(progress), self.config.keep)
        except OSError as error:  # kept: the other ranks must know first
            failure = error
        if self._any(failure is not None)[0]:
            self._give_up(temporary, failure)
        self.last_save = time.monotonic()
        self.journal.event("checkpoint", phase=progress.phase, round=progress.round, step=progress.num_steps)

    def _give_up(self, temporary: Path, failure: OSError | None) -> None:
        """Say what is left after a checkpoint that could not be written."""
        if self.world.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        whole = list_checkpoints(temporary.parent)
        last = f"The last whole checkpoint is {whole[0]}" if whole else "This phase has no checkpoint yet"
        remedy = "make room" if failure is not None and failure.errno in NO_ROOM else "mend that"
        raise SaveError(
            f"{temporary.parent}: cannot save a checkpoint ({failure.strerror if failure else 'another rank failed'}). {last}; "
            f"{remedy}, and the same command goes on there"
        ) from failure

    def _any(self, *own: bool) -> list[bool]:
        """Return which of these facts are true on at least one rank. Every rank must call it."""
        if self.world.size == 1:
            return list(own)
        return [bool(count) for count in sum_over_ranks(torch.tensor([int(fact) for fact in own]), self.world)]

    def _identity(self, progress: Progress) -> Identity:
        return {**self.identity, "phase": progress.phase, "round": progress.round}

    def _warn(self, text: str) -> None:
        self.journal.event("checkpoint_refused", reason=text)
        self.journal.say(f"warning: {text}")
