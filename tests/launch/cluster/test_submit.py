"""`hnm submit --cluster local` and `--cluster debug`: the same jobs without SLURM, told and cancelled alike."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hnm.config import Config, dump_config, load_config
from launch.cluster import submit_verbs
from launch.cluster.job_spec import JobSpec, script_of
from launch.cluster.submissions import live_jobs, read_jobs
from shards.cohort.cohort import Cohort
from shards.errors import InputError
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


@pytest.mark.slow
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


@pytest.mark.parametrize("sbatch", ["", "echo 'sbatch: error: Unable to contact slurm controller (connect failure)' >&2; exit 1"])
def test_a_dry_run_needs_no_controller_and_says_that_nothing_was_checked(
    sbatch: str, tiny_slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    if sbatch:
        (commands / "sbatch").write_text(f"#!/bin/sh\n{sbatch}\n")
        (commands / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(commands))
    submit = ["submit", "pipeline", tiny_slides, tmp_path / "p", "--nodes", "2", "--array-size", "2"]
    result = hnm(*submit, "--dry-run")
    assert result.exit_code == 0, result.output
    note, *lines = result.output.splitlines()
    assert note.startswith("note: the jobs are not checked. ")
    assert ("SLURM does not answer" if sbatch else "no SLURM on this machine: sbatch is not found") in note
    assert sum(line.startswith("#SBATCH --nodes=2") for line in lines) == 3  # pretrain, train, evaluate
    assert_refused(hnm(*submit), 1, note.removeprefix("note: the jobs are not checked. ")[:20])
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["submit", "evaluate", "run", "--no-report"], ["--no-report"]),
        (["submit", "predict", "run", "a.png", "b.png", "-w", "3"], ["--workers", "3"]),
        (["submit", "validate", "run", "b.png", "--by", "site", "--by", "age"], ["--by", "site", "--by", "age"]),
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
    also = {"predict": ["predictions"], "validate": ["validation", "config.yaml"]}.get(verb, [])
    assert places == [*named, *(str(tmp_path / name) for name in also)]
    assert [word for word in rest if word not in places and word not in ("--out", "--config")] == options


EVIL = "touch /tmp/done-by-a-stranger"
STRANGERS = [
    f"slurm.setup=['{EVIL}']", f"slurm.python='{EVIL}; python'", f"slurm.interface='eth0; {EVIL}'",
    f"slurm.extra={{comment: '{EVIL}'}}", f"slurm.partition='{EVIL}'", f"slurm.stages.predict.setup=['{EVIL}']",
    f"slurm.stages.evaluate.account='{EVIL}'",
]  # fmt: skip


def scripts_of(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> tuple[list[str], str]:
    """Return the batch scripts that a command would hand to SLURM, and what it said."""
    scripts: list[str] = []

    def keep(specs: list[JobSpec], config: Config, *_: object) -> int:
        scripts.extend(script_of(spec, config.slurm, "code-0") for spec in specs)
        return 0

    monkeypatch.setattr(submit_verbs, "submit", keep)
    result = hnm("submit", *words)
    assert result.exit_code == 0, result.output
    return scripts, result.output


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_a_strangers_folder_says_nothing_about_how_jobs_run(
    verb: str, evaluated_run: Path, tiny_slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs; touch x"
    theirs.mkdir()
    for name in ("model", "state.json", "metrics.json"):
        (theirs / name).symlink_to(evaluated_run / name)
    folder = evaluated_run / "model" if verb == "predict" else theirs
    if verb == "predict":
        shutil.copytree(folder, folder := theirs / "exported")
    (folder / "config.yaml").unlink(missing_ok=True)
    (folder / "config.yaml").write_text(dump_config(load_config(None, None, STRANGERS)), encoding="utf-8")
    words = [verb, folder, *([next(tiny_slides.parent.glob("images/*.png"))] if verb == "predict" else [])]
    words += ["--out", tmp_path / "out"] if verb == "predict" else []
    (script,), said = scripts_of(monkeypatch, *words, "--partition", "mine")
    assert "done-by-a-stranger" not in script
    assert "#SBATCH --partition=mine" in script
    assert "theirs; touch x" in script
    assert "touch x" not in re.sub(r"'[^'\n]*'", "", script)
    assert "config.yaml says how jobs run; not taken: " in said
    assert "done-by-a-stranger" in said
    (script,), said = scripts_of(monkeypatch, *words, "--config", folder / "config.yaml")  # who wants them says so
    assert EVIL in script.splitlines()


def test_what_goes_into_a_script_is_quoted_or_refused(tmp_path: Path) -> None:
    config = load_config(None, None, ["slurm.interface='ib0; reboot'", "slurm.extra={comment: 'a; $(reboot)'}"]).slurm
    spec = JobSpec("train", tmp_path / "a $(reboot)", [["train", "a\nreboot", "$(reboot)"]], config)
    script = script_of(spec, config, "code-0")
    assert "export GLOO_SOCKET_IFNAME='ib0; reboot' NCCL_SOCKET_IFNAME='ib0; reboot'" in script
    assert "#SBATCH --comment='a; $(reboot)'" in script
    lines = [line for line in script.splitlines() if "reboot" in line and not line.startswith("#")]
    assert lines
    for line in lines:
        assert "reboot" not in re.sub(r"'[^']*'", "", line)
    told = load_config(None, None, ["slurm.setup=['export TOKEN=opensesame']"]).slurm
    with pytest.raises(InputError, match=r"slurm.setup: export TOKEN=\*\*\*: others may read a batch script"):
        script_of(JobSpec("train", tmp_path, [["train"]], told), told, "code-0")
    with pytest.raises(InputError, match=r"a batch script cannot name this folder"):
        script_of(JobSpec("train", tmp_path / "a\nreboot", [["train"]], config), config, "code-0")
def test_embedding_becomes_an_array_where_its_size_is_given(tiny_cohort: Path, tmp_path: Path) -> None:
    command = ["embed", "cohort"]
    params = {"cohort": tiny_cohort, "shard_of": None}
    one, array = (
        submit_verbs.embed_specs(params, tmp_path, command, load_config(None, None, flags), "slurm")[0].commands
        for flags in ([], ["slurm.array_size=3"])
    )
    assert one == [command]
    assert array == [[*command, "--shard-of", f"{i}/3"] for i in (1, 2, 3)]
    config = load_config(None, None, ["slurm.array_size=3"])
    for number, slide_id in enumerate(Cohort.open(tiny_cohort).slide_ids):
        (tmp_path / f"{slide_id}.h5").touch()
        specs = submit_verbs.embed_specs(params, tmp_path, command, config, "slurm")
        left = sorted({later % 3 for later in range(number + 1, 10)})  # an element has every third slide
        assert [spec.commands for spec in specs] == ([[array[i] for i in left]] if left else [])
