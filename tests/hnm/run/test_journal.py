"""The record of a run: rank 0 speaks and writes events, every rank has a log file."""

import json
from pathlib import Path
from typing import Any

import pytest

import hnm.run.journal
from hnm.run.journal import Journal
from tests.ranks import world_of


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]


def test_rank_0_writes_events_and_feeds_the_tracker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracked: list[tuple[dict[str, float], int]] = []
    journal = Journal(tmp_path, world_of(0, 2), lambda values, step: tracked.append((values, step)))
    journal.metrics("round", 3, auc=0.5, witness=None, count=7)
    journal.event("phase", name="embed", round=3)
    journal.say("[round] 3 is done")
    journal.close()
    metrics, phase = events(tmp_path)
    assert {key: metrics[key] for key in ("event", "phase", "step", "auc", "count")} == {
        "event": "metrics", "phase": "round", "step": 3, "auc": 0.5, "count": 7,
    }  # fmt: skip
    assert "witness" not in metrics
    assert (phase["event"], phase["name"]) == ("phase", "embed")
    assert tracked == [({"round/auc": 0.5, "round/count": 7.0}, 3)]
    assert capsys.readouterr().out == "[round] 3 is done\n"
    assert "[round] 3 is done" in (tmp_path / "log" / "rank-000.log").read_text()


def test_other_ranks_only_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(tmp_path, world_of(1, 2), lambda values, step: pytest.fail("rank 1 must not track"))
    journal.metrics("round", 0, auc=0.5)
    journal.say("hello")
    assert list(journal.progress("abc", "letters", 3)) == ["a", "b", "c"]
    journal.close()
    assert not (tmp_path / "events.jsonl").exists()
    assert "hello" in (tmp_path / "log" / "rank-001.log").read_text()
    assert capsys.readouterr().out == ""


def test_progress_off_a_terminal_is_a_plain_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(None, world_of(0, 1))
    assert list(journal.progress(range(3), "steps", 3)) == [0, 1, 2]
    assert capsys.readouterr().out == ""  # quick work says nothing
    monkeypatch.setattr(hnm.run.journal, "PLAIN_LINE_EVERY_S", 0.0)
    assert list(journal.progress(iter(range(3)), "steps", 3)) == [0, 1, 2]
    assert [line.split(", about")[0] for line in capsys.readouterr().out.splitlines()] == [
        "  steps: 1/3",
        "  steps: 2/3",
    ]


def test_a_second_journal_goes_on_in_the_same_files(tmp_path: Path) -> None:
    for step in (0, 1):
        journal = Journal(tmp_path, world_of(0, 1))
        journal.metrics("round", step, auc=0.5)
        journal.say(f"step {step}")
        journal.close()
    assert [event["step"] for event in events(tmp_path)] == [0, 1]
    assert len((tmp_path / "log" / "rank-000.log").read_text().splitlines()) == 2
