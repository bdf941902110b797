"""Signals ask a process to stop, once politely; a second one ends it, wherever it hangs."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from launch.preemption import StopSignals, hand_over

WAITER = """
import ctypes, sys, time
from launch.preemption import StopSignals
with StopSignals() as signals:
    print("ready", flush=True)
    if sys.argv[1] == "hang":  # a mutex locked twice: like a collective, it gives no signal handler a turn
        libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
        libc.pthread_mutex_lock(mutex)
        libc.pthread_mutex_lock(mutex)
    while signals.requested is None:
        time.sleep(0.01)
    time.sleep(float(sys.argv[2]))
    print("asked by", signals.requested.name, flush=True)
sys.exit(75)
"""


def waiter(how: str, seconds: float = 0.0) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITER, how, str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_sets_a_flag_and_the_process_goes_on(number: signal.Signals) -> None:
    process = waiter("work")
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (75, f"asked by {number.name}\n")


def test_the_same_request_passed_on_twice_is_one() -> None:
    process = waiter("work", seconds=0.5)
    process.send_signal(signal.SIGUSR2)
    process.send_signal(signal.SIGTERM)  # a batch system tells all processes of a step, and so does our launcher
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 75
    assert out.startswith("asked by ")


def test_a_second_signal_ends_a_process_that_hangs_outside_of_python() -> None:
    process = waiter("hang")
    process.send_signal(signal.SIGTERM)
    time.sleep(1.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert "asked to stop again: left at once" in err


def test_handlers_are_put_back_and_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    kept = signal.getsignal(signal.SIGUSR2)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGUSR2)
            deadline = time.monotonic() + 10
            while signals.requested is None and time.monotonic() < deadline:
                time.sleep(0.01)
            assert signals.requested is signal.SIGUSR2
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGUSR2) == kept
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_nothing_is_caught() -> None:
    def enter() -> None:
        with StopSignals() as signals:
            seen.append(signals.previous)

    seen: list[object] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [{}]


def test_the_job_is_handed_over_to_whoever_listened_before() -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: calls.append(number))
    try:
        with StopSignals():
            pass
        hand_over()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert calls == [signal.SIGUSR2]
    hand_over()  # nobody listens: nothing happens
