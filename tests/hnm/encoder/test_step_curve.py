"""The loss between the ends of epochs: which steps are told, what is told, and the same ones after stops."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnm.encoder.simclr import learning_rate, pretrain
from hnm.encoder.step_curve import MAX_POINTS, StepCurve, spacing
from hnm.engine.ranks import single_world
from hnm.engine.step import Progress
from hnm.report.draw_rounds import encoder_losses
from hnm.report.record import read_events
from hnm.run.journal import Journal
from tests.hnm.run.test_training import StopAt, StoppedError
from tests.ranks import world_of
from tests.tiny import tiny_config, tiny_session


def points_of(folder: Path) -> list[dict[str, Any]]:
    return [event for event in read_events(folder / "events.jsonl") if event["event"] == "step"]


@given(st.integers(1, 10**7))
def test_there_are_never_too_many_points_and_both_kinds_are_among_them(num_steps: int) -> None:
    every = spacing(num_steps)
    told = np.arange(every, num_steps + 1, every)
    assert 0 < len(told) <= MAX_POINTS
    assert len(told) >= min(num_steps, MAX_POINTS // 2) * 2 / 3  # not too few either
    if len(told) > 1:
        assert set((told % 2).tolist()) == {0, 1}  # negative- and positive-anchored steps take turns


def test_points_by_hand(tmp_path: Path) -> None:
    rows = np.arange(300 * 4).reshape(300, 4)
    rows[:, 3] = -1
    tracked: list[tuple[set[str], int]] = []
    journal = Journal(tmp_path, world_of(0, 2), lambda values, step: tracked.append((set(values), step)))
    progress = Progress("finetune", round=1, epoch=5, step=1, num_steps=1)
    curve = StepCurve(journal, "step_{kind}_loss", rows, 2, lambda taken: taken.num_steps / 8, 1, 1000)
    for number in range(1, 13):
        progress.count_step("positive" if number % 2 else "negative", 0.5 + number)
        curve.step_taken(progress, "positive" if number % 2 else "negative", 0.5 + number)
    journal.close()
    told = [
        {key: value for key, value in point.items() if key not in ("time", "event")} for point in points_of(tmp_path)
    ]
    speeds = [point.pop("step_images_per_s") for point in told]
    assert told == [  # 600 steps: every third
        {"phase": "finetune", "step": 1003, "epoch": 5.01, "step_negative_loss": 2.5, "step_lr": 3 / 8},
        {"phase": "finetune", "step": 1006, "epoch": 5.02, "step_positive_loss": 5.5, "step_lr": 6 / 8},
        {"phase": "finetune", "step": 1009, "epoch": 5.03, "step_negative_loss": 8.5, "step_lr": 9 / 8},
        {"phase": "finetune", "step": 1012, "epoch": 5.04, "step_positive_loss": 11.5, "step_lr": 12 / 8},
    ]
    assert min(speeds) > 0
    names = {"finetune/step_lr", "finetune/step_images_per_s"}
    assert tracked[0] == (names | {"finetune/step_negative_loss"}, 1003)
    assert len(tracked) == 4


def test_the_speed_is_that_of_all_ranks_since_the_point_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    journal, progress = Journal(tmp_path, world_of(0, 2)), Progress("pretrain")
    rows = np.array([[1, 2, 3, 4], [5, 6, 7, -1]])
    curve = StepCurve(journal, "step_loss", rows, 1, lambda taken: 0.1)
    for now[0] in (12.0, 16.0):
        progress.count_step("loss", 1.0)
        curve.step_taken(progress, "loss", 1.0)
    journal.close()
    assert [point["step_images_per_s"] for point in points_of(tmp_path)] == [2.0, 0.8]  # 4 in 2 s, 3 in 4 s


def test_a_pretraining_that_was_stopped_twice_tells_the_same_points_and_is_drawn_the_same(
    tiny_cohort: Path, tmp_path: Path
) -> None:
    config = tiny_config("pretrain.epochs=2", "pretrain.batch_size=24")
    kept: dict[str, list[Any]] = {}
    for name, stops in (("whole", ()), ("stopped", (3, 4))):  # in the middle of an epoch, and at its end
        folder, keeper = tmp_path / name, StopAt(stops, tmp_path / "kept", single_world())
        for attempt in range(len(stops) + 1):
            with tiny_session(single_world(), tiny_cohort, config, Journal(folder, single_world())) as session:
                session = replace(session, keeper=keeper)
                if attempt < len(stops):
                    with pytest.raises(StoppedError):
                        pretrain(config.encoder, config.pretrain, folder / "a.safetensors", session)
                else:
                    assert pretrain(config.encoder, config.pretrain, folder / "a.safetensors", session) == 8
                session.journal.close()
        kept[name] = [(p["step"], p["epoch"], p["step_loss"], p["step_lr"]) for p in points_of(folder)]
        drawn = encoder_losses(read_events(folder / "events.jsonl"), 2, 4)["pretraining"]
        kept[name] += [drawn.ends.tolist(), drawn.means.tolist()]
    assert kept["whole"] == kept["stopped"]
    *points, ends, means = kept["whole"]
    assert [step for step, *_ in points] == list(range(1, 9))
    assert [epoch for _, epoch, *_ in points] == [step / 4 for step in range(1, 9)]
    assert points[5][3] == learning_rate(5, 8, config.pretrain)
    assert ends == [1, 2]
    assert means == pytest.approx([np.mean([p[2] for p in points[:4]]), np.mean([p[2] for p in points[4:]])])
