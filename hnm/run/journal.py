"""What a run tells people and machines: progress on the console, events.jsonl, log files, and the tracker.

Rank 0 speaks on the console and writes events.jsonl; every rank has its log file. On a terminal progress is a bar, elsewhere
a plain line now and then.
"""

import copy
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from hnm.engine.ranks import World
from hnm.run.heartbeat import Heartbeat
from shards.cohort.slides import slide_key
from shards.files import naming
from shards.secrets import scrub

T = TypeVar("T")
PLAIN_LINE_EVERY_S = 15.0


class Journal:
    """One run's record.

    Args:
        folder: the run's folder; None writes no files (for library use).
        world: who we are.
        on_metrics: called on rank 0 with (metrics by name, step), for a tracker.

    Attributes:
        heartbeat: is told how far `progress` has come; None tells nobody.
        target: which of several targets is told of; "": the run.
    """

    target = ""

    def __init__(
        self, folder: Path | None, world: World, on_metrics: Callable[[dict[str, float], int], None] | None = None
    ) -> None:
        self.world, self.folder, self.on_metrics = world, folder, on_metrics
        self.console = Console(quiet=not world.is_main, highlight=False, soft_wrap=True)
        self.last_line = time.monotonic()  # when progress was last told
        self.heartbeat: Heartbeat | None = None
        self._writing = threading.Lock()  # the heartbeat's thread writes events, too
        self.logger = logging.getLogger(f"hnm.{id(self)}")
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False
        if folder is not None:
            log_file = folder / "log" / f"rank-{world.rank:03d}.log"
            log_file.parent.mkdir(parents=True, exist_ok=True)
            handler = _LogFile(log_file, encoding="utf-8")
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            self.logger.addHandler(handler)
            if world.is_main:
                _end_last_line(folder / "events.jsonl")

    def of_target(self, name: str) -> Self:
        """Return the same journal for one of several targets: it is named in what is said, counted and noted."""
        journal = copy.copy(self)
        journal.target = name
        return journal

    def say(self, text: str) -> None:
        """Log a line on every rank and print it on rank 0."""
        text = scrub(f"{self.target}: {text}" if self.target else text)
        self.logger.info(text)
        self.console.print(text, markup=False)

    def metrics(self, phase: str, step: int, **values: float | int | None) -> None:
        """Record numbers of one phase at one step: a line in events.jsonl and the tracker, on rank 0. None is left out."""
        known = {name: value for name, value in values.items() if value is not None}
        self.event("metrics", phase=phase, step=step, **known)
        self._track(phase, step, known)

    def point(self, phase: str, step: int, epoch: float, **values: float) -> None:
        """Record numbers of one optimizer step: a line "step" in events.jsonl and the tracker, on rank 0.

        Args:
            phase: such as "pretrain".
            step: optimizer steps taken in all rounds, this one among them.
            epoch: epochs done, with the part of the one under way.
            values: their names begin with step_: those of `metrics` may be counted otherwise.
        """
        self.event("step", phase=phase, step=step, epoch=round(epoch, 6), **values)
        self._track(phase, step, values)

    def _track(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        if self.on_metrics is not None and self.world.is_main:
            phase = f"{phase}/{slide_key(self.target)}" if self.target else phase
            self.on_metrics({f"{phase}/{name}": float(value) for name, value in values.items()}, step)

    def event(self, kind: str, **values: Any) -> None:
        """Append a line to events.jsonl on rank 0."""
        if self.folder is None or not self.world.is_main:
            return
        of = {"target": self.target} if self.target else {}
        line = scrub(json.dumps({"time": round(time.time(), 3), "event": kind, **of, **values}))
        path = self.folder / "events.jsonl"
        with self._writing, naming(path), open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def begin_phase(self, name: str, round_: int) -> None:
        """Note that a phase begins."""
        self.event("phase", name=name, round=round_)
        if self.heartbeat is not None:
            self.heartbeat.begin(name, round_)

    def progress(
        self, items: Iterable[T], description: str, total: int, done: int = 0, num_more: int = 0
    ) -> Iterator[T]:
        """Yield `items` and show how far we are, on rank 0: `done` of `total` were there before.

        Args:
            num_more: how many times as much work the phase has after these items: the epochs to come.
        """
        if self.heartbeat is not None:
            items = self.heartbeat.follow(items, description, total, done, num_more)
        if not self.world.is_main:
            yield from items
        elif self.console.is_terminal:
            yield from _with_bar(items, description, total, done, self.console)
        else:
            yield from self._with_lines(items, description, total, done)

    def _with_lines(self, items: Iterable[T], description: str, total: int, done: int) -> Iterator[T]:
        begin = time.monotonic()
        for number, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - self.last_line >= PLAIN_LINE_EVERY_S and done + number < total:
                left = (now - begin) / number * (total - done - number)
                self.console.print(f"  {description}: {done + number}/{total}, about {left:.0f} s left", markup=False)
                self.last_line = now

    def close(self) -> None:
        """Close the log file."""
        for handler in list(self.logger.handlers):
            handler.close()
            self.logger.removeHandler(handler)


class _LogFile(logging.FileHandler):
    """A log file that takes what fits on a full disk: whoever writes what matters tells of it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):  # what did not fit before is tried again
            super().close()


def _end_last_line(path: Path) -> None:
    """End the last line of a file that a killed process has left half, so that the next one begins anew."""
    if path.is_file() and path.stat().st_size:
        with open(path, "rb+") as file:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")


def _with_bar(items: Iterable[T], description: str, total: int, done: int, console: Console) -> Iterator[T]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total, completed=done)
        for item in items:
            yield item
            bar.advance(task)
