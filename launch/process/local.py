"""Start ranks on this machine, pass on the signals that ask them to stop, and hand back their exit code.

    hnm train --ranks 2 ──▶ [launcher] ──▶ rank 0, rank 1: the same command with RANK, WORLD_SIZE, ... in the environment

The ranks meet through a file (HNM_RENDEZVOUS), not a port, which another process could take meanwhile. None outlives the
launcher, however that ends.
"""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hnm.private import hidden_words
from launch.process.cores import usable_cores
from launch.process.ending import note_ending
from launch.process.preemption import SAME_REQUEST_S, STOP_SIGNALS, STOPPING, TRY_AGAIN, Preempted, StopSignals

PR_SET_PDEATHSIG = 1  # Linux, prctl(2)
POLL_S = 0.1
GRACE_S = 10.0  # for the other ranks, when one has failed, to say what they know
GRACE_AFTER_SAVING_S = 60.0  # for the others, when one has saved and left: rank 0 may be sending to MLflow

Ranks = list[subprocess.Popen[bytes]]


def run_ranks(num_ranks: int, arguments: list[str]) -> int:
    """Run `hnm` with `arguments` in `num_ranks` processes on this machine and wait for them.

    Args:
        num_ranks: processes to start.
        arguments: the command line after `hnm`.

    Returns:
        0 when all ranks ended well, 75 when they were asked to stop and have saved, else the exit code of the first rank that
        failed, 128 + the signal if one killed it; 128 + the signal that stopped us at once.
    """
    with tempfile.TemporaryDirectory(prefix="hnm-") as folder, _signals_noted() as signals:
        environment = {
            **os.environ,
            "WORLD_SIZE": str(num_ranks),
            "LOCAL_WORLD_SIZE": str(num_ranks),
            "HNM_RENDEZVOUS": (Path(folder) / "rendezvous").as_uri(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, usable_cores() // num_ranks))),
            "PYTHONSAFEPATH": "1",  # a user's own folder called `launch` or `configs` must not shadow ours
        }
        ranks: Ranks = []
        try:
            for rank in range(num_ranks):
                ranks.append(start(arguments, {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}))
            code, why = _wait(ranks, signals)
        finally:
            for process in ranks:
                process.kill()
            for process in ranks:
                process.wait()
        if code not in (0, TRY_AGAIN):
            note_ending(Path(folder), why or f"failed (exit code {code})")
        return code


def start(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start `hnm` with `arguments` in a process that does not outlive this one, and that leaves Ctrl-C to it."""
    launcher = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def before() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the launcher passes it on
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != launcher:  # it died before that call
                os._exit(1)

    words, secrets = hidden_words(arguments)
    command = [sys.executable, "-P", "-u", "-m", "launch.cli", *words]
    return subprocess.Popen(command, env={**environment, **secrets}, preexec_fn=before)


def passable(number: signal.Signals) -> signal.Signals:
    """Return the signal that tells a process of `start` what this one was told: it ignores Ctrl-C."""
    return signal.SIGTERM if number == signal.SIGINT else number


def _wait(ranks: Ranks, signals: list[tuple[float, signal.Signals]]) -> tuple[int, str]:
    """Wait for all ranks; when one has ended badly or has saved and left, for the others no longer than a grace time.

    Returns:
        The exit code for all, and how the run ended, as in state.json; "" if a rank that ended by itself will have told it.
    """
    passed_on: signal.Signals | None = None
    ending, deadline, why = 0, float("inf"), ""
    while None in [process.poll() for process in ranks]:
        if signals and passed_on is None:
            print(STOPPING.decode(), end="", file=sys.stderr, flush=True)
            passed_on = passable(signals[0][1])
            for process in ranks:
                process.send_signal(passed_on)
        if signals and signals[-1][0] - signals[0][0] > SAME_REQUEST_S:
            print("left at once; the same command goes on where it last saved", file=sys.stderr)
            return 128 + int(signals[-1][1]), "stopped at once, without saving"
        if not ending and (ending := _first_ending(ranks, passed_on)):
            why = _killed(ranks, passed_on)
            deadline = time.monotonic() + (GRACE_AFTER_SAVING_S if ending == TRY_AGAIN else GRACE_S)
        if time.monotonic() > deadline:
            hanging = ", ".join(str(rank) for rank, process in enumerate(ranks) if process.poll() is None)
            print(f"rank {hanging} does not end and is killed; the same command goes on where it last saved", file=sys.stderr)
            why = why or f"failed (rank {hanging} did not end and was killed)"
            break
        time.sleep(POLL_S)
    code = _first_ending(ranks, passed_on) if ending in (0, TRY_AGAIN) else ending
    return code, why or _killed(ranks, passed_on)


def _killed(ranks: Ranks, passed_on: signal.Signals | None) -> str:
    """Return which rank was killed, as in state.json; "" if none was."""
    for rank, process in enumerate(ranks):
        if (code := process.returncode) is not None and code < 0 and -code != passed_on:
            return f"failed (rank {rank} was killed by {signal.Signals(-code).name})"
    return ""


def _first_ending(ranks: Ranks, passed_on: signal.Signals | None) -> int:
    """Return the exit code that a rank's ending means for all, 0 while all run or ended well; say what killed it.

    Args:
        passed_on: the signal that we have sent them: a rank that was still starting dies of it, and has nothing to save.
    """
    codes = [process.returncode for process in ranks]
    for rank, code in enumerate(codes):
        if code is not None and code < 0 and -code != passed_on:
            why = " (out of memory?)" if code == -signal.SIGKILL else ""
            name = signal.Signals(-code).name
            print(f"rank {rank} was killed by {name}{why}; the same command goes on where it last saved", file=sys.stderr)
            return 128 - code
    for code in codes:  # after those that were killed: the others fail because one is gone
        if code is not None and code > 0 and code != TRY_AGAIN:
            return code
    return TRY_AGAIN if any(code == TRY_AGAIN or (code is not None and code < 0) for code in codes) else 0


@contextmanager
def _signals_noted() -> Iterator[list[tuple[float, signal.Signals]]]:
    """Yield a list to which the signals that ask to stop are added as (time, signal), instead of ending this process."""
    noted: list[tuple[float, signal.Signals]] = []

    def note(number: int, _: object) -> None:
        noted.append((time.monotonic(), signal.Signals(number)))

    caught = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, note) for number in caught}
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# 75; killed by the signal before it was ready for it; left at once, or a rank of it was killed so
ASKED_TO_STOP = {TRY_AGAIN, *(-number for number in STOP_SIGNALS), *(128 + number for number in STOP_SIGNALS)}


def run_child(arguments: Sequence[str], signals: StopSignals) -> int:
    """Run `hnm` with `arguments` in a process of its own, wait for its end, and return its exit code.

    Args:
        arguments: the command line after `hnm`.
        signals: what this process was asked; it is passed on.

    Raises:
        Preempted: this process or the child was asked to stop, and what could be saved is.
    """
    return run_children([arguments], signals)


def run_children(commands: Sequence[Sequence[str]], signals: StopSignals) -> int:
    """Run several `hnm ...` side by side, a process each, and wait for all; as `run_child`.

    Several share the cores, unless OMP_NUM_THREADS says otherwise. All are started from this thread: a child ends with the thread
    that has started it.

    Returns:
        0 when all ended well, else the first exit code that is another, in the order of `commands`.
    """
    stop_if_asked(signals)
    environment: dict[str, str] = dict(os.environ)
    if len(commands) > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // len(commands))))
    children: list[subprocess.Popen[bytes]] = []
    is_told = False
    try:
        for arguments in commands:
            children.append(start(arguments, environment))
        while None in [child.poll() for child in children]:
            if signals.requested is not None and not is_told:
                for child in children:
                    child.send_signal(passable(signals.requested))
                is_told = True
            time.sleep(POLL_S)
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()
    stop_if_asked(signals)
    codes = [child.returncode for child in children]
    for arguments, code in zip(commands, codes, strict=True):
        if code in ASKED_TO_STOP:
            raise Preempted(f"hnm {arguments[0]} was asked to stop")
    return next((code for code in codes if code), 0)


def stop_if_asked(signals: StopSignals) -> None:
    """Begin nothing else if this process was asked to stop.

    Raises:
        Preempted: it was.
    """
    if signals.requested is not None:
        raise Preempted(f"asked to stop ({signals.requested.name})")

