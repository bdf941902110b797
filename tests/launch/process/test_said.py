"""Errors of ranks: each is told once, with its rank; the launcher tells of those who cannot."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hnm.run.checksums import read_state
from hnm.run.heartbeat import Heartbeat
from hnm.run.tracking import Tracker
from launch.process.ending import note_ending, tell_launcher
from launch.process.run_directory import begin_attempt, open_run
from launch.process.said import SAID_WITHIN_S, in_words, keep_log, say_error
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.files import write_json
from shards.reading.plan import ids_of_rank, plan_epoch
from shards.seeding import numpy_generator
from tests.command_line import hnm as hnm_here
from tests.hnm.run.test_broken import damage
from tests.launch.process.test_local import hnm
from tests.ranks import world_of
from tests.tiny import TINY, tiny_config


def said_by(rank: int, error: Exception, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> str:
    patch.setenv("RANK", str(rank))
    say_error(error, str(error))
    return capsys.readouterr().err


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_text_that_rank_0_has_said_is_not_said_again_on_its_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_ours: bool
) -> None:
    """With our launcher the ranks meet in a folder; with torchrun or srun they are children of one process."""
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if is_ours:
        monkeypatch.setenv("HNM_RENDEZVOUS", (tmp_path / "rendezvous").as_uri())
    assert said_by(0, InputError("no room"), capsys, monkeypatch) == "error: no room\n"
    assert said_by(2, InputError("no room"), capsys, monkeypatch) == ""
    monkeypatch.setattr("launch.process.said.SAID_WITHIN_S", 0.2)
    assert said_by(1, InputError("no bread"), capsys, monkeypatch) == "error (rank 1): no bread\n"


def test_on_another_node_the_last_heartbeat_of_rank_0_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "of this node"))
    write_json(tmp_path / "heartbeat-000.json", {"rank": 0, "error": "no room"})
    for text, expected in (("no room", ""), ("no bread", "error (rank 1): no bread\n")):
        monkeypatch.setattr("launch.process.said.SAID_WITHIN_S", 0.2 if expected else SAID_WITHIN_S)
        error = InputError(text)
        keep_log(error, tmp_path)
        assert said_by(1, error, capsys, monkeypatch) == expected


def test_errors_in_words() -> None:
    assert in_words(InputError("a file\nand another")) == "a file\nand another"
    assert in_words(RuntimeError("boom\nat line 7")) == "RuntimeError: boom"
    assert in_words(KeyError()) == "KeyError: no message"


@pytest.mark.slow
def test_an_error_of_rank_1_alone_is_told_everywhere(tiny_cohort: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    shutil.copytree(tiny_cohort, cohort)
    opened = Cohort.open(cohort)
    training = opened.splits()[opened.patches.slide] == "train"
    (ids,) = training.nonzero()
    row = plan_epoch(ids, 24, numpy_generator(0, "pretrain", 0))[0]
    damage(cohort, [int(ids_of_rank(row, 1, 2)[0])])  # no other rank reads it
    done = hnm("pretrain", cohort, "out", "--ranks", "2", *TINY, cwd=tmp_path)
    assert done.returncode == 1
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("error (rank 1): ")]
    assert "cannot be read" in told
    assert "Traceback" not in done.stderr
    problem = told.removeprefix("error (rank 1): ")
    assert f"rank 1: pretrain 0/4, ended with: {problem}" in done.stderr  # rank 0 tells what it was lost to
    assert f"error: {problem}" in (tmp_path / "out" / "log" / "rank-001.log").read_text()
    attempt = read_state(tmp_path / "out")["attempts"][-1]
    assert attempt["how"] == f"failed (rank 1: {problem[:300]})"
    assert attempt["errors"] == {"1": problem}
    status = hnm_here("status", tmp_path / "out")
    assert status.exit_code == 1
    assert f"rank 1: {problem}" in status.stdout


def test_the_launcher_tells_of_a_rank_0_that_was_ended_without_a_word(
    tiny_cohort: Path,
    tracking_database: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As NCCL ends the ranks whose peer is dead. That the launcher does it is in test_local.py: a rank is killed there."""
    run, meeting = tmp_path / "run", tmp_path / "meeting"
    meeting.mkdir()
    note_ending(meeting, "failed (x)")  # no run was opened
    monkeypatch.setenv("HNM_RENDEZVOUS", (meeting / "rendezvous").as_uri())
    shutil.copy(tracking_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    config = tiny_config("tracking.enabled=true", f"tracking.uri={uri}")
    open_run(run, Cohort.open(tiny_cohort), config)
    begin_attempt(run, "train", 2)
    tell_launcher(run)
    tracker = Tracker(run, config.tracking, {})
    (run / "log").mkdir()
    for rank in (0, 1):
        Heartbeat(run / "log", world_of(rank, 2)).close()
    how = "failed (rank 0 was killed by SIGABRT)"
    note_ending(meeting, how)
    told = capsys.readouterr().err
    assert told.startswith("last reports: rank 0: start, came forward 0 s ago")
    assert "; rank 1: start" in told
    tracked = MlflowClient(uri).get_run(tracker.run_id)
    assert tracked.info.status == "FAILED"
    assert tracked.data.tags["hnm.attempt.001"].endswith(how)
    assert how in hnm_here("status", run).stdout
    note_ending(meeting, "failed (another)")  # rank 0 had told it
    assert read_state(run)["attempts"][-1]["how"] == how
