"""Signs of life: every rank keeps one small file that says how far it is; rank 0 copies all of them to events.jsonl.

    rank r: progress of the loop ──a thread, every 5 s──▶ run/log/heartbeat-000.json   (replaced whole, not fsynced)
    rank 0: all ranks' files ──about once a minute, and at phase ends──▶ events.jsonl

The thread writes also while the main thread waits in a collective: `time` says that the process lives, `moved` when its
work last came forward. A rank that waits for one that is dead is told apart from one that works.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from hnm.engine.ranks import World

T = TypeVar("T")
Beat = dict[str, Any]

BEAT_EVERY_S = 5.0
COPY_EVERY_S = 60.0


class Heartbeat:
    """This rank's signs of life.

    Args:
        folder: the run's log folder, seen by all ranks.
        world: who we are.
        num_images: returns how many images this rank has read so far.
        event: appends a line to events.jsonl (rank 0).
        stalled: called on rank 0 with all ranks' last words when nothing has moved for `stall_s`.
        stall_s: seconds.
        claim: a file to touch at each beat, which shows other machines that the run is worked on.
    """

    def __init__(
        self,
        folder: Path,
        world: World,
        num_images: Callable[[], int] = lambda: 0,
        event: Callable[..., None] = lambda kind, **values: None,
        stalled: Callable[[str], None] = lambda text: None,
        stall_s: float = float("inf"),
        claim: Path | None = None,
    ) -> None:
        self.folder, self.world, self.claim = folder, world, claim
        self.num_images, self.event, self.stalled, self.stall_s = num_images, event, stalled, stall_s
        self.now: Beat = {"phase": "start", "round": None, "doing": "start", "done": 0, "total": 0}
        self.moved = self.phase_began = self.doing_began = time.time()
        self.done_at_begin, self.num_more, self.rate = 0, 0, 0.0
        self._images, self._images_at = 0, time.monotonic()
        self._copied = time.monotonic()
        self._told = False
        self._end = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")
        self._thread.start()

    def begin(self, phase: str, round_: int | None) -> None:
        """Note that a phase begins, at once: a process that is killed soon has been in this one."""
        self.phase_began = self.doing_began = self.moved = time.time()
        self.now = {"phase": phase, "round": round_, "doing": phase, "done": 0, "total": 0}
        self.write()

    def follow(self, items: Iterable[T], doing: str, total: int, done: int = 0, num_more: int = 0) -> Iterator[T]:
        """Yield `items` and note how many have been worked on.

        Args:
            doing: what the work is, such as "round 0: fine-tune epoch 1/4".
            total: how many items there are in all.
            done: how many of them were done before, by a process that was stopped.
            num_more: how many times as much work the phase has after these items: the epochs to come.
        """
        self.doing_began, self.done_at_begin, self.num_more = time.time(), done, num_more
        self.now = {**self.now, "doing": doing, "done": done, "total": total}
        for item in items:
            yield item
            done += 1
            self.now, self.moved, self._told = {**self.now, "done": done}, time.time(), False

    def failed(self, text: str) -> None:
        """Note, at once, what ends this rank's work: the others tell it."""
        self.now = {**self.now, "error": text}
        self.write()

    def copy(self) -> None:
        """Write this rank's file now and, on rank 0, copy all ranks' to events.jsonl."""
        self.write()
        if self.world.is_main:
            self._copied = time.monotonic()
            for beat in read_beats(self.folder):
                self.event("heartbeat", **{key: value for key, value in beat.items() if key not in ("pid", "host")})

    def close(self) -> None:
        """Write a last time and end the thread."""
        self._end.set()
        self._thread.join()
        self.copy()

    def _run(self) -> None:
        self.write()  # a rank that dies at once has a last word, too
        while not self._end.wait(BEAT_EVERY_S):
            due = time.monotonic() - self._copied >= COPY_EVERY_S
            self.copy() if due else self.write()
            if self.world.is_main and not self._told and time.time() - self.moved > self.stall_s:
                self._told = True
                self.stalled(last_words(read_beats(self.folder), time.time()))

    def write(self) -> None:
        """Replace this rank's file; a full disk or a lost mount must not end the run here."""
        with self._writing, suppress(OSError):
            now, images = time.monotonic(), self.num_images()
            if now - self._images_at >= BEAT_EVERY_S / 2:
                self.rate = (images - self._images) / (now - self._images_at)
                self._images, self._images_at = images, now
            beat = {"rank": self.world.rank, **self.now, "images_per_s": round(self.rate, 1), **self._times()}
            path = self.folder / f"heartbeat-{self.world.rank:03d}.json"
            temporary = path.with_name(f".{path.name}")
            temporary.write_text(json.dumps(beat) + "\n", encoding="utf-8")
            os.replace(temporary, path)
            if self.claim is not None:
                os.utime(self.claim)

    def _times(self) -> Beat:
        worked, steps = self.moved - self.doing_began, self.now["done"] - self.done_at_begin
        to_do = self.now["total"] * (1 + self.num_more) - self.now["done"]
        left = worked / steps * to_do if steps > 0 else None
        return {
            "left_s": None if left is None else round(left, 1),
            "moved": round(self.moved, 3),
            "time": round(time.time(), 3),
            "began": round(self.phase_began, 3),
            "pid": os.getpid(),
            "host": socket.gethostname(),
        }


def read_beats(folder: Path) -> list[Beat]:
    """Return the last beat of every rank, by rank; what cannot be read is left out."""
    beats = []
    for path in sorted(folder.glob("heartbeat-*.json")):
        with suppress(OSError, ValueError):
            beats.append(json.loads(path.read_text(encoding="utf-8")))
    return beats


def forget_beats(folder: Path) -> None:
    """Remove the beats of earlier processes, which may have been more ranks than there are now. Call it on rank 0 only."""
    for path in folder.glob("heartbeat-*.json"):
        path.unlink(missing_ok=True)


def last_words(beats: list[Beat], now: float) -> str:
    """Return what each rank last reported, for a message.

    Args:
        beats: as by `read_beats`.
        now: seconds since 1970.
    """
    if not beats:
        return "no rank has reported anything yet"
    return "; ".join(
        f"rank {beat['rank']}: {_place(beat)}, "
        + (
            f"ended with: {beat['error']}"
            if beat.get("error")
            else f"came forward {now - beat['moved']:.0f} s ago, alive {now - beat['time']:.0f} s ago"
        )
        for beat in beats
    )


def errors_of(beats: list[Beat]) -> dict[int, str]:
    """Return what ended the ranks that failed, by rank."""
    return {beat["rank"]: beat["error"] for beat in beats if beat.get("error")}


def _place(beat: Beat) -> str:
    steps = f" {beat['done']}/{beat['total']}" if beat["total"] else ""
    return f"{beat['doing']}{steps}"
