"""`hnm status RUN`: where a run is, from its files alone, so from any machine that sees the folder.

state.json (phases done, attempts) + log/heartbeat-*.json ──▶ Status ──▶ a line in plain words, a table of the ranks
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hnm.config import Config
from hnm.run.checksums import read_state
from hnm.run.heartbeat import BEAT_EVERY_S, Beat, errors_of, read_beats
from hnm.run_rounds import last_round
from launch.process.run_directory import is_abandoned, read_run

LATE_AFTER_S = 4 * BEAT_EVERY_S
LOST_AFTER_S = 60.0  # 12 beats: a slow network file system may hold one back


@dataclass(frozen=True)
class Status:
    """Where a run is.

    Attributes:
        word: "running", "silent" (no heartbeat though nothing ended it), "stopped", "failed" or "finished".
        sentence: the same with phase, step, speed and the time left, for people.
        beats: the last heartbeat of every rank.
        attempts: as in state.json.
        phases: the phases done, as in state.json.
    """

    word: str
    sentence: str
    beats: list[Beat]
    attempts: list[dict[str, Any]]
    phases: list[dict[str, Any]]


def print_status(run: Path) -> int:
    """Print where the run is; the exit code is 1 when it failed or fell silent.

    Raises:
        InputError: no run directory.
    """
    status = read_status(run, time.time())
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{run}: {status.sentence}", markup=False)
    done = sum(record.get("seconds", 0.0) for record in status.phases)
    console.print(f"phases done: {len(status.phases)}, {in_words(done)} of work", markup=False)
    if status.beats and status.word in ("running", "silent"):
        console.print(table_of_ranks(status.beats, time.time()))
    for rank, text in errors_of(status.beats).items():
        if rank and text.splitlines()[0][:300] not in status.sentence:
            console.print(f"rank {rank} ended with: {text}", markup=False)
    for number, attempt in enumerate(status.attempts, start=1):
        console.print(f"attempt {number}: {attempt_in_words(attempt)}", markup=False)
    return int(status.word in ("failed", "silent"))


def read_status(run: Path, now: float) -> Status:
    """Return where a run is.

    Args:
        run: the run directory, also of `hnm pretrain`.
        now: seconds since 1970.

    Raises:
        InputError: no run directory, or its state.json is damaged.
    """
    config, _ = read_run(run)
    state = read_state(run)
    attempts, phases = state.get("attempts", []), state["phases"]
    beats = read_beats(run / "log")
    word, sentence = describe(attempts, beats, what_is_done(run, config), now, is_abandoned(run))
    return Status(word, sentence, beats, attempts, phases)


def what_is_done(run: Path, config: Config) -> str | None:
    """Return what a finished run has, None if there is work left."""
    if (run / "metrics.json").is_file():
        return "trained and evaluated"
    if (last := last_round(config, run)) is not None:
        early = f" (round {last} is the last: {config.rounds.why_early})" if last < config.rounds.num_rounds else ""
        return f"trained{early}; next: hnm evaluate {run}"
    if (run / "encoder.safetensors").is_file():
        return f"pretrained; next: hnm train COHORT RUN --encoder {run / 'encoder.safetensors'}"
    return None


def describe(
    attempts: list[dict[str, Any]], beats: list[Beat], done: str | None, now: float, is_dead: bool = False
) -> tuple[str, str]:
    """Return the word and the sentence of a Status.

    Args:
        attempts: as in state.json.
        beats: as by `read_beats`.
        done: what a finished run has, None if there is work left.
        now: seconds since 1970.
        is_dead: whether the process that worked on it is known to be gone.
    """
    attempt = attempts[-1] if attempts else None
    if attempt is None:
        return ("finished", f"finished: {done}") if done else ("stopped", "not begun")
    if attempt["ended"] is None:
        since = now - max((beat["time"] for beat in beats), default=attempt["started"])
        if since <= LOST_AFTER_S and not is_dead:
            alive = [beat for beat in beats if not _is_late(beat, now)] or beats
            return "running", f"running {place(alive)}{_late_ranks(beats, now)}"
        why = f"its process is gone, last heartbeat {in_words(since)} ago" if is_dead else f"no heartbeat for {in_words(since)}"
        return "silent", f"stopped: {why}; it was at {place(beats, False)}. The same command goes on there"
    ago = in_words(now - attempt["ended"])
    if attempt["how"] == "finished" and done:
        return "finished", f"finished {ago} ago: {done}"
    if attempt["how"] == "finished":
        return "stopped", f"not finished: hnm {attempt['verb']} ended well {ago} ago, but files are missing now"
    word = "stopped" if attempt["how"].startswith("stopped") else "failed"
    remedy = "" if "same command" in attempt["how"] else ". The same command goes on there"
    return word, f"{attempt['how']} {ago} ago at {place(beats, False)}{remedy}"


def _is_late(beat: Beat, now: float) -> bool:
    return now - float(beat["time"]) > LATE_AFTER_S


def _late_ranks(beats: list[Beat], now: float) -> str:
    """Return a sentence on the ranks that give no sign of life while others do, "" if there are none."""
    late = [beat for beat in beats if _is_late(beat, now)]
    if not late or len(late) == len(beats):
        return ""
    names = ", ".join(f"rank {beat['rank']} ({in_words(now - beat['time'])}, {beat['host']}:{beat['pid']})" for beat in late)
    return f". No sign of life from {names}: stopped, or its machine is gone; the others wait for it"


def place(beats: list[Beat], is_running: bool = True) -> str:
    """Return where rank 0 is and, of a running one, how fast all ranks are, and the time left in the work that it is at."""
    if not beats:
        return "the start"
    beat = beats[0]
    where = beat["doing"]
    if beat["round"] is not None and not where.startswith("round"):
        where = f"round {beat['round']}: {where}"
    if beat["total"]:
        where += f", step {beat['done']}/{beat['total']}"
    if not is_running:
        return where
    if (rate := sum(b["images_per_s"] for b in beats)) > 0:
        where += f", {rate:.0f} images/s"
    if beat["left_s"] is not None and beat["left_s"] > 0:
        where += f", about {in_words(beat['left_s'])} left in this phase"
    return where


def table_of_ranks(beats: list[Beat], now: float) -> Table:
    """Return a row per rank: where it is, when it came forward, when it was last alive."""
    table = Table("rank", "host", "doing", "step", "images/s", "came forward", "heartbeat")
    for beat in beats:
        late = _is_late(beat, now)
        table.add_row(
            str(beat["rank"]), f"{beat['host']}:{beat['pid']}", beat["doing"], f"{beat['done']}/{beat['total']}",
            f"{beat['images_per_s']:.0f}", f"{in_words(now - beat['moved'])} ago",
            f"{in_words(now - beat['time'])} ago{' (late)' if late else ''}",
        )  # fmt: skip
    return table


def attempt_in_words(attempt: dict[str, Any]) -> str:
    """Return one attempt: when, where, how long, how it ended."""
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt["started"]))
    how = attempt["how"] or "not ended"
    job = f", job {attempt['job']}" if "job" in attempt else ""
    lasted = f" after {in_words(attempt['ended'] - attempt['started'])}" if attempt["ended"] else ""
    where = f"{attempt['ranks']} rank(s) of {attempt.get('nodes') or attempt['host']}{job}"
    errors = "".join(f"; rank {rank}: {text}" for rank, text in attempt.get("errors", {}).items())
    return f"hnm {attempt['verb']} on {where}, {started}: {how}{lasted}{errors}"


def in_words(seconds: float) -> str:
    """Return a duration as people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{max(0.0, seconds):.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
