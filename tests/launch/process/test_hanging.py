"""A rank that hangs in the middle of fine-tuning: the others end soon and say so, the run goes on, and nothing leaks."""

import os
import signal
import stat
import threading
import time
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import pytest

from hnm.report.record import read_events
from hnm.run.heartbeat import read_beats
from launch.process import local
from launch.process.status import read_status
from tests.launch.process.test_local import TIMEOUT_S
from tests.tiny import TINY

STEP_S = 2.0  # how long a rank waits for the others from the first step on
SECRET = "hunter2-do-not-write-me"
# these settings decide how, not what comes out: the results are those of an undisturbed run without them
OFTEN = ["checkpoint.every_steps=1", f"timeout.step_s={STEP_S}"]


@dataclass
class Hung:
    """What became of a run whose rank 1 was stopped (SIGSTOP) after a step of the second round's fine-tuning."""

    folder: Path
    command: list[str]
    code: int = -1
    seconds: float = 0.0  # from the stop to the end of all ranks
    output: str = ""
    stopped_at: float = 0.0

    @property
    def run(self) -> Path:
        return self.folder / "run"


def stop_rank_1(hung: Hung) -> None:
    """Wait for the first step of the second round's fine-tuning, then stop rank 1 for ever."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        events = read_events(hung.run / "events.jsonl")[-3:]
        if any((e["event"], e.get("phase"), e.get("round")) == ("checkpoint", "finetune", 1) for e in events):
            os.kill(next(beat["pid"] for beat in read_beats(hung.run / "log") if beat["rank"] == 1), signal.SIGSTOP)
            hung.stopped_at = time.monotonic()
            return
        time.sleep(0.005)


@pytest.fixture(scope="module")
def hung(tmp_path_factory: pytest.TempPathFactory, tiny_cohort: Path, tracking_database: Path) -> Hung:
    """A run that ended because of a hanging rank, with a secret in its environment, a careful umask, and MLflow."""
    folder = tmp_path_factory.mktemp("hung")
    database = folder / "mlflow.db"
    database.write_bytes(tracking_database.read_bytes())
    tracking = ["tracking.enabled=true", f"tracking.uri=sqlite:///{database}"]
    command = ["train", str(tiny_cohort), str(folder / "run"), "--preset", "hnm", "--ranks", "2", *TINY, *OFTEN, *tracking]
    hung = Hung(folder, command)
    watcher = threading.Thread(target=stop_rank_1, args=(hung,))
    with pytest.MonkeyPatch.context() as patch, open(folder / "output.txt", "w+") as output:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("SOME_SERVICE_TOKEN", SECRET)
        patch.setattr(local, "GRACE_S", 1.0)
        errors, umask = os.dup(2), os.umask(0o027)
        os.dup2(output.fileno(), 2)  # the ranks' errors, and the launcher's
        try:
            watcher.start()
            with redirect_stderr(output):
                hung.code = local.run_ranks(2, command)
        finally:
            os.dup2(errors, 2)
            os.close(errors)
            os.umask(umask)
    hung.seconds = time.monotonic() - hung.stopped_at
    watcher.join()
    hung.output = (folder / "output.txt").read_text()
    return hung


@pytest.mark.slow
def test_the_others_end_in_time_and_say_who_last_reported_what(hung: Hung) -> None:
    assert hung.code == 1, hung.output
    assert hung.seconds < STEP_S + 5
    (line,) = [line for line in hung.output.splitlines() if line.startswith("error: another rank is gone")]
    assert "did not answer in time" in line
    assert "Last reports: rank 0: round 1: fine-tune epoch 2/2" in line
    assert "; rank 1: " in line
    assert "the same command goes on there" in line
    assert "rank 1 does not end and is killed" in hung.output
    assert "Traceback" not in hung.output
    status = read_status(hung.run, time.time())
    assert (status.word, status.attempts[-1]["how"]) == ("failed", "failed (rank 1 did not end and was killed)")


@pytest.mark.slow
def test_nothing_logs_the_environment(hung: Hung) -> None:
    """The secret is in no file: events, logs, heartbeats, state, checkpoints, and MLflow's database and artifacts."""
    files = [path for path in hung.folder.rglob("*") if path.is_file()]
    assert {"events.jsonl", "environment.json", "rank-001.log", "mlflow.db", "manifest.json"} <= {path.name for path in files}
    assert any("mlartifacts" in path.parts for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_all_files_have_the_users_umask(hung: Hung) -> None:
    paths = [hung.run, *hung.run.rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o750}
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_file()} == {0o640}
