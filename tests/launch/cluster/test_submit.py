"""`hnm submit --cluster local` and `--cluster debug`: the same jobs without SLURM, told and cancelled alike."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hnm.config import load_config
from launch.cluster import submit_verbs
from launch.cluster.submissions import live_jobs, read_jobs
from tests.command_line import assert_refused, hnm
from tests.paths import ROOT
from tests.tiny import TINY

TIMEOUT_S = 60.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def said(*arguments: str | Path) -> str:
    return " ".join(hnm(*arguments).output.split())


def test_a_debug_job_runs_in_this_process(evaluated_run: Path, tiny_slides: Path, tmp_path: Path) -> None:
    images = sorted((tiny_slides.parent / "images").glob("*.png"))[:2]
    predict = ["predict", evaluated_run, images[0], "--device", "cpu"]
    result = hnm("submit", *predict, "--out", tmp_path / "out", "--cluster", "debug")
    assert result.exit_code == 0, result.output
    assert "1 slides scored" in result.output
    (row,) = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert row["num_patches"] == 16
    assert read_jobs(tmp_path / "out") == []  # there is nothing to follow
    failed = hnm("submit", *predict, tmp_path / "gone.png", "--out", tmp_path / "failed", "--cluster", "debug")
    assert failed.exit_code == 1
    assert "gone: failed: " in failed.output
    assert_refused(hnm("submit", "predict", tmp_path, *images, "--cluster", "debug"), 1, "neither a run nor an exported model")
    nodes = hnm("submit", *predict, "--nodes", "2", "--cluster", "debug")
    assert_refused(nodes, 2, "hnm predict is one process on one node")
    two = hnm("submit", "evaluate", evaluated_run, "--ranks", "2", "--cluster", "debug")
    assert_refused(two, 2, "--cluster debug is this process: it is one rank")


def test_a_local_job_goes_on_behind_the_command(tiny_cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["submit", "pretrain", tiny_cohort, out, "--ranks", "2", "--cluster", "local", *TINY, "pretrain.epochs=1000"]
    command = [sys.executable, "-P", "-m", "launch.cli", *map(str, words)]
    # it returns though the job goes on: nobody holds the pipe
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    (job,) = read_jobs(out)
    assert f"pretrain is job {job.job_id}" in done.stdout
    until(lambda: "rank 1 of 2 on" in said("logs", out, "--rank", "1"))
    assert "running on" in said("status", out)
    assert "is queued or at work here" in said(*words)
    assert f"cancelled pretrain (job {job.job_id})" in said("cancel", out)
    until(lambda: not live_jobs(out))
    assert f"pretrain, job {job.job_id}: cancelled" in said("status", out)
    assert "no job is queued or at work" in said("cancel", out)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["submit", "evaluate", "run", "--no-report"], ["--no-report"]),
        (["submit", "predict", "run", "a.png", "b.png", "-w", "3"], ["--workers", "3"]),
    ],
)
def test_a_job_gets_the_local_commands_arguments(
    words: list[str], options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = []

    def keep(name: str, command: Callable[[Path], list[str]], *_: object) -> int:
        found.append(command(tmp_path / "config.yaml"))
        return 0

    monkeypatch.setattr(submit_verbs, "submit_verb", keep)
    assert hnm(*words).exit_code == 0
    (command,) = found
    verb, *rest = command
    places = [word for word in rest if word.startswith("/")]
    assert verb == words[1]
    named = [str(tmp_path / word) for word in words[2:] if word in ("run", "a.png", "b.png")]
    assert places == [*named, *([str(tmp_path / "predictions")] if verb == "predict" else [])]
    assert [word for word in rest if word not in places and word != "--out"] == options


def test_embedding_becomes_an_array_where_its_size_is_given(tiny_cohort: Path, tmp_path: Path) -> None:
    command = ["embed", "cohort"]
    params = {"cohort": tiny_cohort, "shard_of": None}
    one, array = (
        submit_verbs.embed_specs(params, tmp_path, command, load_config(None, None, flags), "slurm")[0].commands
        for flags in ([], ["slurm.array_size=3"])
    )
    assert one == [command]
    assert array == [[*command, "--shard-of", f"{i}/3"] for i in (1, 2, 3)]
