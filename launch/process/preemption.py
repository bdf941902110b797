"""Being asked to stop: a signal sets a flag, the ranks agree on it at a step boundary, save, and leave with exit code 75.

    USR2, TERM, INT ──▶ StopSignals.requested ──▶ keeper: all ranks agree ▶ save ▶ Preempted ──▶ exit code 75
    a second signal ──▶ the process leaves at once, also when it waits in a collective that never ends

75 is EX_TEMPFAIL of sysexits.h, "try again later": the same command goes on where the run stopped.
"""

import os
import signal
import sys
import threading
import time
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any

from launch.process.distributed import rank_of_process

TRY_AGAIN = 75
STOP_SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
STOPPING = b"stopping when the step is done and saved; once more to leave at once\n"
SAME_REQUEST_S = 1.0  # a batch system and our launcher may both pass on one request


class Preempted(Exception):  # noqa: N818 - it is what was asked for
    """The run was asked to stop, and all ranks have saved what they can."""


class StopSignals(AbstractContextManager["StopSignals"]):
    """Catches the signals that ask a process to stop, during a `with` block.

    A thread reads the signals as they come (`signal.set_wakeup_fd`): Python's own handlers wait for the main thread, which
    may be in a collective that never ends. Outside the main thread nothing is caught. Of two, one in the other's block, both
    are told: a cross-validation in whose process a fold trains.

    Args:
        is_quiet: say nothing when asked; whoever does the work says it.

    Attributes:
        requested: the signal that asks this process to stop, None so far.
    """

    def __init__(self, is_quiet: bool = False) -> None:
        # our launcher, or rank 0, has said it
        self.is_quiet = is_quiet or rank_of_process() != 0 or "HNM_RENDEZVOUS" in os.environ
        self.requested: signal.Signals | None = None
        self.previous: dict[signal.Signals, Any] = {}
        self._reader: threading.Thread | None = None

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is not threading.main_thread():
            return self
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        for number in STOP_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup, or a background job of a shell
                self.previous[number] = signal.signal(number, lambda *_: None)
        self._previous_fd = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._reader = threading.Thread(target=self._read, args=(reading,), daemon=True, name="stop signals")
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._reader is None:
            return
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        os.close(self._writing)  # the reader sees the end of the pipe
        self._reader.join()

    def _read(self, pipe: int) -> None:
        first = 0.0
        with open(pipe, "rb", buffering=0) as signals:
            while byte := signals.read(1):
                if self._previous_fd >= 0:
                    with suppress(OSError):
                        os.write(self._previous_fd, byte)
                if byte[0] not in self.previous:
                    continue
                if self.requested is None:
                    first, self.requested = time.monotonic(), signal.Signals(byte[0])
                    if not self.is_quiet:
                        os.write(sys.stderr.fileno(), STOPPING)
                elif time.monotonic() - first > SAME_REQUEST_S:
                    os.write(sys.stderr.fileno(), b"asked to stop again: left at once\n")
                    os._exit(128 + byte[0])


def hand_over() -> None:
    """Let submitit put the job back into the queue, if this process is one of its tasks; then this call does not return.

    submitit tells only the first task what to do; the others come back from here and end.
    """
    handler = signal.getsignal(signal.SIGUSR2)
    if callable(handler):
        handler(signal.SIGUSR2, None)
