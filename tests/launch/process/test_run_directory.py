"""A run directory belongs to one cohort and one configuration."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hnm.config import read_config
from hnm.run.phase import earlier_seconds
from launch.process.run_directory import (
    alone_in,
    begin_attempt,
    check_cohort,
    describe_environment,
    open_run,
    read_run,
    remove_leftovers,
    remove_run,
)
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.files import write_json
from tests.paths import ROOT
from tests.tiny import tiny_config


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_new_run_records_cohort_configuration_and_machine(tiny_cohort: Path, tmp_path: Path) -> None:
    cohort, config, run = Cohort.open(tiny_cohort), tiny_config("seed=9"), tmp_path / "runs" / "a"
    open_run(run, cohort, config)
    assert names(run) == {"config.yaml", "environment.json", "slides.parquet", "state.json"}
    assert read_config(run / "config.yaml") == config
    assert read_run(run) == (config, tiny_cohort.resolve())
    state = json.loads((run / "state.json").read_text())
    assert state == {"cohort": str(tiny_cohort.resolve()), "fingerprint": cohort.fingerprint, "phases": []}
    assert json.loads((run / "environment.json").read_text())["packages"]["torch"]


def test_an_empty_folder_may_become_a_run(tiny_cohort: Path, tmp_path: Path) -> None:
    open_run(tmp_path, Cohort.open(tiny_cohort), tiny_config())
    assert "state.json" in names(tmp_path)


def test_opening_again_changes_nothing_and_allows_what_does_not_change_results(
    tiny_cohort: Path, tmp_path: Path
) -> None:
    cohort = Cohort.open(tiny_cohort)
    open_run(tmp_path, cohort, tiny_config())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    open_run(tmp_path, cohort, tiny_config("device=auto", "reader.threads=7", "tracking.experiment=other"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_moved_cohort_is_the_same_cohort(tiny_cohort: Path, tmp_path: Path) -> None:
    open_run(tmp_path / "run", Cohort.open(tiny_cohort), tiny_config())
    shutil.copytree(tiny_cohort, tmp_path / "moved")
    check_cohort(tmp_path / "run", Cohort.open(tmp_path / "moved"), tiny_config().data)


def test_another_cohort_or_other_settings_are_refused(tiny_cohort: Path, tmp_path: Path) -> None:
    cohort = Cohort.open(tiny_cohort)
    open_run(tmp_path, cohort, tiny_config())
    other = replace(cohort, patches=cohort.patches.take(np.arange(100)), root=Path("elsewhere"))
    with pytest.raises(InputError, match=rf"state\.json: .*{cohort.fingerprint}.*elsewhere has {other.fingerprint}"):
        open_run(tmp_path, other, tiny_config())
    with pytest.raises(InputError, match=r"seed: 0 -> 1; mining\.ties: exact -> keep.*another run directory"):
        open_run(tmp_path, cohort, tiny_config("seed=1", "mining.ties=keep"))


def test_what_is_no_run_directory_is_refused(tiny_cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    for name in ("file", "full"):
        with pytest.raises(InputError, match=rf"{name}: exists and is no run directory"):
            open_run(tmp_path / name, Cohort.open(tiny_cohort), tiny_config())
        with pytest.raises(InputError, match=r"state\.json is missing.*hnm train"):
            read_run(tmp_path / name)
    assert names(tmp_path / "full") == {"thesis.tex"}


def test_the_environment_holds_versions_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-write-me")
    described = describe_environment()
    assert described["packages"].keys() >= {"torch", "numpy", "mlflow", "hnm"}
    assert "do-not-write-me" not in json.dumps(described)


def test_one_process_at_a_time_works_on_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys; from pathlib import Path; from launch.process.run_directory import alone_in\n"
    code += "with alone_in(Path(sys.argv[1])):\n    print('in', flush=True)\n    sys.stdin.read()\n"
    root = ROOT
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "in\n"
    with pytest.raises(InputError, match=rf"process {other.pid} on .* works there\. Wait for its end"), alone_in(tmp_path, 0.1):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("launch.process.run_directory.TELL_AFTER_S", 0.0)
    with pytest.raises(InputError), alone_in(tmp_path, 0.7):
        pass
    assert re.fullmatch(rf".*: process {other.pid} on .* works there; waiting at most 1 s for its end\n", capsys.readouterr().err)
    other.kill()
    other.wait()
    with alone_in(tmp_path, 0.1) as claim:
        assert claim.is_file()
    assert not claim.exists()


def test_seconds_of_killed_processes_count_up_to_their_last_heartbeat(tmp_path: Path) -> None:
    done = {"phase": "embed", "round": 0, "seconds": 4.0}
    write_json(tmp_path / "state.json", {"cohort": "x", "phases": [done]})

    def killed_at(phase: str, round_: int | None, seconds: float) -> float:
        """Return what is known of the phase after a process that was killed so long after it had begun."""
        begin_attempt(tmp_path, "train", 1)
        began = json.loads((tmp_path / "state.json").read_text())["attempts"][-1]["started"]
        beat = {"rank": 0, "phase": phase, "round": round_, "began": began, "time": began + seconds}
        write_json(tmp_path / "log" / "heartbeat-000.json", beat)
        time.sleep(0.002)  # times are kept in ms
        begin_attempt(tmp_path, "train", 1)
        return earlier_seconds(phase, round_ or 0, tmp_path)

    assert killed_at("start", None, 3.0) == 0.0
    assert killed_at("finetune", 0, 5.0) == pytest.approx(5.0, abs=0.02)
    assert killed_at("finetune", 0, 2.0) == pytest.approx(7.0, abs=0.02)  # in all, by two processes
    begin_attempt(tmp_path, "train", 1)  # died before its first heartbeat: the old one is not counted again
    assert earlier_seconds("finetune", 0, tmp_path) == pytest.approx(7.0, abs=0.02)
    assert killed_at("embed", 0, 9.0) == 4.0  # it was done: killed between two phases


def test_leftovers_of_killed_processes_go(tmp_path: Path) -> None:
    (tmp_path / "round-000" / ".step-000004.tmp").mkdir(parents=True)
    for name in (".scores.npy.77.tmp", "round-000/.mining.json.77.tmp", "round-000/mining.json"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mining.json"]
    assert not (tmp_path / "round-000" / ".step-000004.tmp").exists()


def test_a_run_is_removed_only_for_those_who_are_sure(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    remove_run(run, is_sure=True)  # nothing there: nothing to do
    shutil.copytree(finished_run, run)
    with pytest.raises(InputError, match=r"would remove .*run with 3 finished round\(s\)\. .* add --yes"):
        remove_run(run, is_sure=False)
    assert (run / "round-002" / "mining.json").is_file()
    remove_run(run, is_sure=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "thesis").mkdir()
    with pytest.raises(InputError, match=r"no run directory"):
        remove_run(tmp_path / "thesis", is_sure=True)
    assert (tmp_path / "thesis").is_dir()


def test_files_of_a_run_have_the_users_umask(tiny_cohort: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        open_run(tmp_path / "run", Cohort.open(tiny_cohort), tiny_config())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o750
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").iterdir()} == {0o640}
