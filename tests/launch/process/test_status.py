"""`hnm status`: every state of a run in plain words, from files alone."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hnm.engine.ranks import World, single_world
from hnm.run.heartbeat import Heartbeat, forget_beats, last_words, read_beats
from launch.cli.main import app
from launch.process.run_directory import begin_attempt, end_attempt
from launch.process.status import describe, in_words, place
from shards.files import write_json
from tests.ranks import world_of

NOW = 10_000.0


def beat(rank: int = 0, **changed: Any) -> dict[str, Any]:
    known = {
        "rank": rank, "phase": "finetune", "round": 3, "doing": "round 3: fine-tune epoch 16/20", "done": 400, "total": 1200,
        "images_per_s": 155.0, "left_s": 720.0, "moved": NOW - 3, "time": NOW - 2, "began": NOW - 400, "pid": 7, "host": "a",
    }  # fmt: skip
    return {**known, **changed}


def attempt(ended: float | None = None, how: str | None = None) -> dict[str, Any]:
    return {"verb": "train", "started": NOW - 500, "ended": ended, "how": how, "host": "a", "ranks": 2}


RUNNING = "running round 3: fine-tune epoch 16/20, step 400/1200, 310 images/s, about 12 min left in this phase"

ALONE = RUNNING.replace("310 images/s", "155 images/s")  # what a stopped rank last did is not what it does


@pytest.mark.parametrize(
    ("attempts", "beats", "done", "word", "sentence"),
    [
        ([attempt()], [beat(), beat(1)], None, "running", RUNNING),
        ([attempt()], [beat(), beat(1, time=NOW - 29)], None, "running", f"{ALONE}. No sign of life from rank 1 (29 s, a:7): st"),
        ([attempt()], [beat(time=NOW - 29), beat(1)], None, "running", f"{ALONE}. No sign of life from rank 0 (29 s, a:7)"),
        ([attempt()], [], None, "silent", "stopped: no heartbeat for 8 min; it was at the start"),
        ([attempt()], [beat(time=NOW - 2400)], None, "silent", "stopped: no heartbeat for 40 min; it was at round 3"),
        ([attempt(NOW - 60, "stopped as asked")], [beat()], None, "stopped", "stopped as asked 60 s ago at round 3"),
        ([attempt(NOW - 60, "failed (OSError: full)")], [beat()], None, "failed", "failed (OSError: full) 60 s ago at round"),
        ([attempt(NOW - 60, "finished")], [beat()], "trained", "finished", "finished 60 s ago: trained"),
        ([attempt(NOW - 60, "finished")], [beat()], None, "stopped", "not finished: hnm train ended well 60 s ago, but"),
        ([], [], None, "stopped", "not begun"),
    ],
)
def test_a_run_in_words(
    attempts: list[dict[str, Any]], beats: list[dict[str, Any]], done: str | None, word: str, sentence: str
) -> None:
    found = describe(attempts, beats, done, NOW)
    assert found[0] == word
    assert found[1].startswith(sentence)
    assert ("left in this phase" in found[1]) == (word == "running")


def test_a_process_that_is_known_to_be_gone_is_not_waited_for() -> None:
    word, sentence = describe([attempt()], [beat()], None, NOW, is_dead=True)
    assert word == "silent"
    assert sentence.startswith("stopped: its process is gone, last heartbeat 2 s ago; it was at round 3: fine-tune epoch 16/20")
    full = "failed (SaveError: x; make room, and the same command goes on there)"
    assert describe([attempt(NOW - 60, full)], [beat()], None, NOW)[1].count("same command") == 1


def test_a_phase_without_steps_names_its_round() -> None:
    mining = beat(phase="mine", doing="mine", done=0, total=0, images_per_s=0.0, left_s=None)
    assert place([mining]) == "round 3: mine"


@pytest.mark.parametrize(("seconds", "words"), [(-1, "0 s"), (40, "40 s"), (720, "12 min"), (12_600, "3.5 h")])
def test_durations_as_people_say_them(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_beats_of_all_ranks_reach_events_through_rank_0(tmp_path: Path) -> None:
    (tmp_path / "heartbeat-002.json").write_text("of an earlier run on three ranks")
    forget_beats(tmp_path)
    events: list[dict[str, Any]] = []
    hearts = [
        Heartbeat(tmp_path, world_of(rank, 2), lambda: 0, lambda kind, **values: events.append({"event": kind, **values}))
        for rank in (0, 1)
    ]
    for heart in hearts:
        heart.begin("embed", 2)
        items = heart.follow(range(3), "embed", 10, done=6)
        assert [next(items), next(items)] == [0, 1]  # the second is being worked on
    for heart in reversed(hearts):
        heart.close()
    beats = read_beats(tmp_path)
    assert [(b["rank"], b["phase"], b["round"], b["done"], b["total"], b["pid"]) for b in beats] == [
        (rank, "embed", 2, 7, 10, os.getpid()) for rank in (0, 1)
    ]
    assert [(event["event"], event["rank"], event["done"]) for event in events] == [("heartbeat", 0, 7), ("heartbeat", 1, 7)]
    words = last_words(beats, time.time())
    assert words.startswith("rank 0: embed 7/10, came forward ")
    assert "; rank 1: embed 7/10, came forward " in words
    assert last_words([], 0.0) == "no rank has reported anything yet"


def test_a_full_disk_does_not_end_the_heart(tmp_path: Path) -> None:
    heart = Heartbeat(tmp_path / "gone", single_world())
    heart.copy()
    heart.close()


def test_a_stall_is_said_once_with_everybodys_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hnm.run.heartbeat.BEAT_EVERY_S", 0.02)
    told: list[str] = []
    heart = Heartbeat(tmp_path, World(0, 1, 0, single_world().device), stalled=told.append, stall_s=0.1)
    time.sleep(0.5)
    heart.close()
    assert len(told) == 1
    assert "rank 0: start, came forward " in told[0]


def test_the_verb_tells_a_finished_and_a_dead_run(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    result = CliRunner().invoke(app, ["status", str(run)])
    assert result.exit_code == 0
    assert f"ago: trained; next: hnm evaluate {run}" in result.stdout
    assert "attempt 1: hnm train on 1 rank(s) of " in result.stdout
    begin_attempt(run, "train", 2)
    write_json(run / "log" / "heartbeat-000.json", {**beat(), "time": time.time()})
    (run / "round-000" / "mining.json").unlink()
    at_work = CliRunner().invoke(app, ["report", str(run)])
    assert f"error: {run}: running round 3: fine-tune" in at_work.stderr
    assert "Round 0 is not mined yet, there is nothing to show: wait for it" in at_work.stderr
    write_json(run / "log" / "heartbeat-000.json", {**beat(), "time": time.time() - 2400})
    result = CliRunner().invoke(app, ["status", str(run)])
    assert result.exit_code == 1
    assert "stopped: no heartbeat for 40 min; it was at round 3: fine-tune epoch 16/20, step 400/1200" in result.stdout
    begin_attempt(run, "train", 1)
    end_attempt(run, "finished")
    attempts = json.loads((run / "state.json").read_text())["attempts"]
    assert [found["how"] for found in attempts] == ["finished", "died", "finished"]
    assert attempts[1]["ended"] == pytest.approx(time.time() - 2400, abs=30)
    result = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert result.exit_code == 1
    assert "no run directory" in result.stderr
