"""Commands made of commands (`hnm demo`, `hnm crossval`): each runs in a process of its own, and is asked to stop with us.

    USR2, TERM, Ctrl-C ──▶ StopSignals ──passed on──▶ the child saves and ends with 75 ──▶ Preempted: nothing else begins

None outlives this process. A second signal ends it at once, and the child with it.
"""

import os
import time
from collections.abc import Sequence

from launch.local import POLL_S, passable, start
from launch.preemption import STOP_SIGNALS, TRY_AGAIN, Preempted, StopSignals

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
    stop_if_asked(signals)
    child, is_told = start(arguments, os.environ), False
    try:
        while child.poll() is None:
            if signals.requested is not None and not is_told:
                child.send_signal(passable(signals.requested))
                is_told = True
            time.sleep(POLL_S)
    finally:
        child.kill()
        child.wait()
    stop_if_asked(signals)
    if child.returncode in ASKED_TO_STOP:
        raise Preempted(f"hnm {arguments[0]} was asked to stop")
    return child.returncode


def stop_if_asked(signals: StopSignals) -> None:
    """Begin nothing else if this process was asked to stop.

    Raises:
        Preempted: it was.
    """
    if signals.requested is not None:
        raise Preempted(f"asked to stop ({signals.requested.name})")
