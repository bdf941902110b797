"""Phases: what a run has done, with seconds and optimizer steps, in state.json. A process may die between any two lines.

    state.json   {"cohort": ..., "phases": [{"phase": "embed", "round": 0, "seconds": 12.3}, ...], "partial": ..., ...}
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hnm.run.broken import note_broken
from hnm.run.checksums import files_of_phase, note_files, read_state
from hnm.run.session import Session
from shards.files import write_json


class Record:
    """What is known of one phase of one round."""

    def __init__(self, name: str, round_: int, run: Path, session: Session) -> None:
        self.known: dict[str, Any] = {"phase": name, "round": round_}
        self.run, self.session = run, session
        if session.world.is_main:
            self._forget_files()
        self.begin = time.monotonic() - (earlier_seconds(name, round_, run) if session.world.is_main else 0.0)

    def keep(self, **known: Any) -> None:
        """Write the record, with further figures, to state.json (rank 0). Call it before the file that ends the phase.

        A record of the same phase, from a process that died before that file, is replaced.
        """
        self.known |= known
        if self.session.world.is_main:
            state = read_state(self.run)
            record = {**self.known, "seconds": self.seconds}
            others = [old for old in state["phases"] if (old["phase"], old["round"]) != self.place]
            state.pop("partial", None)
            write_json(self.run / "state.json", {**state, "phases": [*others, record]})

    def keep_files(self) -> None:
        """Write the record once more, with the checksums of the files that now end the phase (rank 0)."""
        self.keep()
        if self.session.world.is_main and (paths := files_of_phase(*self.place, self.run)):
            note_files(paths, self.run)

    def _forget_files(self) -> None:
        """Forget the checksums of what is about to be made anew: a kill right after it would leave those of the old file."""
        state = read_state(self.run)
        files = state.get("files", {})
        old = {path.relative_to(self.run).as_posix() for path in files_of_phase(*self.place, self.run, is_there=False)}
        if old & set(files):
            kept = {name: value for name, value in files.items() if name not in old}
            write_json(self.run / "state.json", {**state, "files": kept})

    def keep_partial(self) -> None:
        """Note the seconds of a phase that is stopped in the middle: they count when it is gone on with."""
        if self.session.world.is_main:
            state = read_state(self.run)
            partial = {"phase": self.place[0], "round": self.place[1], "seconds": self.seconds}
            write_json(self.run / "state.json", {**state, "partial": partial})

    @contextmanager
    def not_counted(self) -> Iterator[None]:
        """Leave the seconds of the block out: what is done beside the phase's work."""
        begin = time.monotonic()
        yield
        self.begin += time.monotonic() - begin

    @property
    def place(self) -> tuple[str, int]:
        """Phase and round."""
        return self.known["phase"], self.known["round"]

    @property
    def seconds(self) -> float:
        """Time spent so far, also by processes that were asked to stop, and by killed ones up to their last heartbeat."""
        return round(time.monotonic() - self.begin, 2)


@contextmanager
def phase(name: str, round_: int, run: Path, session: Session) -> Iterator[Record]:
    """Time one phase and, when it ends well, keep its record, with what could not be read so far.

    Every rank must call it. The block calls `Record.keep` before it writes the file that says the phase is done.

    Raises:
        Preempted: the run was asked to stop.
    """
    session.stop_if_asked()
    session.journal.begin_phase(name, round_)
    record = Record(name, round_, run, session)
    try:
        yield record
    except Exception:
        with suppress(OSError):
            record.keep_partial()
        raise
    broken = note_broken(run, session)
    if broken.get("num"):
        record.known["broken_patches"] = broken["num"]
        session.journal.event("broken_patches", phase=name, round=round_, **broken)
    session.journal.logger.info("round %d: %s took %.1f s", round_, name, record.seconds)
    record.keep_files()
    if session.keeper is not None:
        session.keeper.phase_ended()


def steps_of_finetuning(run: Path, round_: int) -> int:
    """Return the optimizer steps that fine-tuning took in the rounds before `round_`. Call it on rank 0 only."""
    done = read_state(run)["phases"]
    return int(sum(known["steps"] for known in done if known["phase"] == "finetune" and known["round"] < round_))


def earlier_seconds(name: str, round_: int, run: Path) -> float:
    """Return the seconds that earlier processes have spent on a phase that is not done."""
    state = read_state(run)
    known = [*state["phases"], state.get("partial") or {}]
    return float(sum(old["seconds"] for old in known if (old.get("phase"), old.get("round")) == (name, round_)))
