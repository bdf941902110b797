"""The stopwatch of the slide step: a part's seconds are its own, without those of the parts inside it."""

import time

import pytest

from benchmarks.slide_step import Stopwatch


def test_a_part_has_its_own_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = iter([0.0, 1.0, 3.0, 10.0, 20.0, 21.0])  # outer begins, inner begins, inner ends, outer ends; inner alone
    cpu = iter([0.0, 1.0, 2.0, 5.0, 0.0, 0.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(time, "process_time", lambda: next(cpu))
    watch = Stopwatch()
    inner = watch.timed(lambda x: x + 1, "inner")
    with watch.part("outer"):
        assert inner(1) == 2
    inner(0)
    assert watch.seconds == {"inner": [3.0, 1.5], "outer": [8.0, 4.0]}
