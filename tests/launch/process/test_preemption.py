"""Signals ask a process to stop, once politely; a second one ends it, wherever it hangs."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hnm.encoder.contrastive_model import fresh_model, save_model
from hnm.engine.checkpoint import CheckpointConfig
from hnm.engine.ranks import TimeoutConfig, World, barrier
from hnm.evidence.evaluate import evaluate
from hnm.rounds import train
from hnm.run.journal import Journal
from hnm.run_rounds import START_ENCODER
from launch.process.keeper import RunKeeper
from launch.process.preemption import Preempted, StopSignals, hand_over
from shards.files import write_json
from tests.paths import ROOT
from tests.ranks import on_ranks
from tests.tiny import results_of, tiny_config, tiny_session

WAITER = """
import ctypes, sys, time
from launch.process.preemption import StopSignals
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
        cwd=ROOT,
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


class NotingJournal(Journal):
    """A journal that counts how often each phase has asked whether to stop."""

    place, asked = "", 0

    def begin_phase(self, name: str, round_: int) -> None:
        self.place, self.asked = name, 0
        super().begin_phase(name, round_)


class AskedKeeper(RunKeeper):
    """A keeper whose rank 0 gets a real signal when (phase, number) of `stops` is asked."""

    stops: tuple[tuple[str, int], ...] = ()

    def stop_if_asked(self) -> None:
        journal = self.journal
        assert isinstance(journal, NotingJournal)
        journal.asked += 1
        if self.world.is_main and (journal.place, journal.asked) in self.stops:
            os.kill(os.getpid(), signal.SIGUSR2)
            while self.signals.requested is None:
                time.sleep(0.001)
        super().stop_if_asked()


# embed, mine and evaluate train nothing: no engine takes part, and one trial stands for DDP and for every ZeRO
WITHOUT_ENGINE = (("embed", 3), ("embed", 12), ("mine", 1), ("mine", 2), ("evaluate", 2), ("evaluate", 6))


def train_and_evaluate(run: Path, stop: tuple[str, int] | None, world: World, cohort: str) -> str:
    """Run one round and its evaluation, on an encoder that was not trained; return where it was stopped, "" if not."""
    config = tiny_config("rounds.num_rounds=0", "rounds.keep_features=true", "rounds.embed_batch_size=4")
    if world.is_main and not run.exists():
        write_json(run / "state.json", {"phases": []})
        save_model(run / START_ENCODER, fresh_model(config.encoder, 1), {})
    barrier(world)
    journal = NotingJournal(run, world)
    with StopSignals() as signals, tiny_session(world, Path(cohort), config, journal) as plain:
        keeper = AskedKeeper(
            run, lambda phase, round_: run / phase, {}, CheckpointConfig(), TimeoutConfig(), signals, journal
        )
        keeper.stops = (stop,) if stop else ()
        session = replace(plain, keeper=keeper)
        try:
            train(config, run / START_ENCODER, run, session)
            evaluate(config, run, session)
        except Preempted:
            return journal.place
        finally:
            journal.close()
    return ""


def stop_without_engine(world: World, cohort: str, folder: str) -> list[str]:
    """Run undisturbed, and again with a stop at each of WITHOUT_ENGINE, each followed by the same call."""
    undisturbed, stopped = Path(folder) / "undisturbed", Path(folder) / "stopped"
    return [
        train_and_evaluate(undisturbed, None, world, cohort),
        *(train_and_evaluate(stopped, stop, world, cohort) for stop in (*WITHOUT_ENGINE, None)),
    ]


def test_phases_without_an_engine_stopped_twice_by_a_signal_to_rank_0_are_undisturbed(
    tiny_cohort: Path, tmp_path: Path
) -> None:
    for stops in on_ranks(2, stop_without_engine, str(tiny_cohort), str(tmp_path)):
        assert stops == ["", *(phase for phase, _ in WITHOUT_ENGINE), ""]
    found = [results_of(tmp_path / name) for name in ("undisturbed", "stopped")]
    assert {"round-000/mining.json", "round-000/features/index.json", "predictions.parquet"} <= found[0].keys()
    metrics = [json.loads(results.pop("metrics.json")) for results in found]
    assert metrics[0].pop("seconds") >= 0 <= metrics[1].pop("seconds")
    assert metrics[0] == metrics[1]
    assert found[0] == found[1]
