"""A cross-validation of the tiny cohort: stopped and resumed, shared between processes, joined, and refused where it leaks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from hnm.config import load_config
from hnm.engine.state import load_weights
from hnm.statistics.metrics import auc
from launch.cli.main import app
from launch.process.preemption import TRY_AGAIN, Preempted
from launch.verbs import crossval
from launch.verbs import train as verbs
from launch.verbs.crossval_folder import Request, encoder_of_other, open_folder
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from tests.hnm.run.test_seen import with_values
from tests.pages import require_self_contained
from tests.paths import ROOT
from tests.tiny import TINY
from tests.waiting import wait_for

TIMEOUT_S = 300
CHANGED = ["rounds.num_rounds=1", "aggregate.epochs=2", "finetune.batch_size=8", "mining.neg_ratio=1.0"]
SHORT = [text for text in TINY if text.partition("=")[0] not in {changed.partition("=")[0] for changed in CHANGED}] + CHANGED


def request(cohort: Path, out: Path, *overrides: str, **changes: Any) -> Request:
    values = {"num_folds": 3, "repeats": 1, "share": None, "config": None, "preset": "hnm", "encoder": None, "encoders_of": None}
    return Request(cohort, out, overrides=[*SHORT, *overrides], ranks=1, **{**values, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_cohort: Path) -> Path:
    """A cross-validation of three folds: the first alone, the second failed, then all that was missing."""
    out = tmp_path_factory.mktemp("crossval") / "cv"
    real = verbs.train

    def failing(cohort: Path, run: Path, *rest: Any) -> int:
        if run.name == "fold-1":
            raise InputError("the disk was full")
        return real(cohort, run, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verbs, "train", failing)
        assert crossval.run(request(tiny_cohort, out, share="1/3")) == 0
        assert crossval.run(request(tiny_cohort, out, share="2/3")) == 1
    first = out / "repeat-0" / "fold-0" / "metrics.json"
    assert list(out.glob("repeat-0/fold-*/metrics.json")) == [first]
    assert not (out / "metrics.json").exists()
    done = first.stat().st_mtime_ns
    assert crossval.run(request(tiny_cohort, out)) == 0
    assert first.stat().st_mtime_ns == done
    return out


def test_every_slide_is_predicted_once_by_a_model_that_did_not_see_it(finished: Path, tiny_cohort: Path) -> None:
    table = pq.read_table(finished / "predictions.parquet").to_pandas()
    slides = pq.read_table(tiny_cohort / "slides.parquet").to_pandas()
    assert sorted(table.slide_id) == sorted(slides.slide_id)
    assert table.groupby("fold").size().tolist() == [4, 3, 3]
    for row in table.itertuples():
        run = pq.read_table(finished / f"repeat-0/fold-{row.fold}/predictions.parquet").to_pandas().set_index("slide_id")
        assert run.split[row.slide_id] == "test"
        assert run.score[row.slide_id] == row.score
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["out_of_fold"]["auc"]["value"] == auc(table.label.to_numpy(), table.score.to_numpy())
    by_fold = [fold["figures"]["slide auc"] for fold in metrics["folds"]]
    assert metrics["mean"]["slide auc"]["mean"] == pytest.approx(np.mean(by_fold))
    assert metrics["mean"]["instance auc"]["num"] == 3


def test_test_tars_of_a_fold_are_never_read_before_its_evaluation(finished: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    cohort, out = tmp_path / "cohort", tmp_path / "cv"
    shutil.copytree(tiny_cohort, cohort)
    table = pq.read_table(finished / "predictions.parquet").to_pandas().set_index("slide_id")
    # not the fold that tests the first slide: the reader asks its first patch's header how large patches are
    fold = next(fold for fold in range(3) if fold != table.fold["slide-000"])
    for slide in table.index[table.fold == fold]:
        (cohort / "shards" / f"{slide}-0000.tar").unlink()
    assert crossval.run(request(cohort, out, share=f"{fold + 1}/3")) == 1  # trained, then failed at the evaluation
    run = out / "repeat-0" / f"fold-{fold}"
    assert (run / "round-001" / "mining.json").is_file()
    for name in ("weights", "slide_scores"):
        before = np.load(finished / f"repeat-0/fold-{fold}/round-001/{name}.npy")
        np.testing.assert_array_equal(np.load(run / "round-001" / f"{name}.npy"), before)


@pytest.mark.slow
def test_two_ranks_give_the_fold_of_one(
    finished: Path, tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert crossval.run(replace(request(tiny_cohort, tmp_path / "cv", share="1/3"), ranks=2)) == 0
    one, two = (pq.read_table(cv / "repeat-0/fold-0/predictions.parquet").to_pandas() for cv in (finished, tmp_path / "cv"))
    assert two.slide_id.tolist() == one.slide_id.tolist()
    np.testing.assert_allclose(two.score, one.score, atol=1e-3)
    state = json.loads((tmp_path / "cv/repeat-0/fold-0/state.json").read_text())
    assert {attempt["ranks"] for attempt in state["attempts"]} == {2}


def on_command_line(cohort: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """Start `hnm crossval`, whose folds run in processes of their own, in a group of its own, as in a terminal."""
    words = ["crossval", str(cohort), str(out), "--folds", "3", "--preset", "hnm", *options, *SHORT]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "launch.cli", *words], cwd=ROOT, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.slow  # in_one_process below is the quick one
def test_asked_to_stop_it_saves_begins_nothing_else_and_goes_on(
    finished: Path, tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "cv"
    run = out / "repeat-0" / "fold-0"
    process = on_command_line(tiny_cohort, out, "--fold", "1/2")  # folds 0 and 2
    wait_for(run / "log" / "claim.json", process)
    (child,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    os.kill(child, signal.SIGSTOP)  # it hangs
    process.terminate()
    time.sleep(1.5)
    assert process.poll() is None
    for _ in range(20):  # again; on a busy machine the two may come to it as one
        if process.poll() is None:
            process.terminate()
            time.sleep(1.5)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "asked to stop again: left at once" in output
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists():  # the kernel ends it a moment after us
        assert time.monotonic() < deadline
        time.sleep(0.05)

    process = on_command_line(tiny_cohort, out, "--fold", "1/2")
    wait_for(run / "encoder-start.safetensors", process)
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C in a terminal: to the child and to us
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == TRY_AGAIN, output
    assert "repeat 0, fold 0: asked to stop (SIGINT). No other fold is begun; the same command goes on there\n" in output
    assert "left at once" not in output
    assert "Traceback" not in output
    assert not (out / "repeat-0" / "fold-2").exists()

    assert crossval.run(replace(request(tiny_cohort, out, share="1/3"), ranks=0)) == 0
    assert (run / "predictions.parquet").read_bytes() == (finished / "repeat-0/fold-0/predictions.parquet").read_bytes()
    attempts = json.loads((run / "state.json").read_text())["attempts"]
    # killed before it was ready, the first may not have noted its attempt
    assert [attempt["how"] for attempt in attempts][-3:] == ["stopped as asked", "finished", "finished"]


@pytest.mark.parametrize("place", ["round-000/mining.json", "round-001/mining.json"])  # in the middle; the last file of a run
def test_in_one_process_it_stops_alike(
    place: str, finished: Path, tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cv"
    real = os.replace

    def asking(source: Path, target: Path) -> None:
        real(source, target)
        if Path(target) == out / "repeat-0" / "fold-0" / place:
            os.kill(os.getpid(), signal.SIGUSR2)
            time.sleep(0.2)  # the thread that reads it has its turn

    before = signal.getsignal(signal.SIGUSR2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", asking)
        with pytest.raises(Preempted, match=r"^repeat 0, fold 0: .*stop.*\. No other fold is begun$"):
            crossval.run(request(tiny_cohort, out, share="1/2"))
    assert signal.getsignal(signal.SIGUSR2) == before
    assert not (out / "repeat-0" / "fold-0" / "metrics.json").exists()
    assert not (out / "repeat-0" / "fold-2").exists()
    assert crossval.run(request(tiny_cohort, out, share="1/3")) == 0
    ours, undisturbed = (cv / "repeat-0/fold-0/predictions.parquet" for cv in (out, finished))
    assert ours.read_bytes() == undisturbed.read_bytes()


@pytest.mark.slow
def test_encoders_are_shared_with_another_method_on_the_same_folds(finished: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "dsmil"
    overrides = [*(text for text in SHORT if not text.startswith("rounds.num")), "tracking.enabled=true"]
    asked = Request(tiny_cohort, out, 3, 1, "1/3", None, "dsmil", overrides, None, finished, 1)
    assert crossval.run(replace(asked, reports=True)) == 0
    ours, theirs = (load_weights(cv / "repeat-0/fold-0/encoder-start.safetensors")[0] for cv in (out, finished))
    assert all(tensor.equal(theirs[name]) for name, tensor in ours.items())
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "hnm"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert runs["fold-0"].data.tags["mlflow.parentRunId"] == runs["dsmil"].info.run_id
    assert "mlflow.parentRunId" not in runs["dsmil"].data.tags
    assert (runs["fold-0"].info.status, runs["dsmil"].info.status) == ("FINISHED", "RUNNING")  # two folds are to come
    assert runs["dsmil"].data.params["folds"] == "3"
    assert crossval.run(replace(asked, share=None)) == 0
    assert client.get_run(runs["dsmil"].info.run_id).info.status == "FINISHED"
    everything = {"config.yaml", "metrics.json", "predictions.parquet", "report.html", "figures"}
    assert {file.path for file in client.list_artifacts(runs["dsmil"].info.run_id)} == everything
    pictures = {Path(file.path).stem for file in client.list_artifacts(runs["dsmil"].info.run_id, "figures")}
    assert pictures == {"curves", "figures_by_fold", "scores_by_fold", "confusion", "calibration"}
    assert client.get_run(runs["fold-0"].info.run_id).info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(runs["fold-0"].info.run_id)} > everything
    assert len(client.list_artifacts(runs["fold-0"].info.run_id, "figures")) >= 8
    table, first = pq.read_table(out / "predictions.parquet").to_pandas(), out / "repeat-0" / "fold-0"
    tested = set(table.slide_id[table.fold == 0])
    assert {path.stem for path in (first / "figures" / "heatmaps").glob("*.jpg")} == tested
    heatmaps = {f"repeat-0/fold-0/figures/heatmaps/{slide}.jpg" for slide in tested}
    links = {link for link in require_self_contained(out / "report.html").links if not link.startswith("#")}
    assert links == {"repeat-0/fold-0/report.html"} | heatmaps  # the others were done without --reports
    with pytest.raises(InputError, match=r"--encoders-of .*folds are not those of"):
        encoder_of_other(finished, make_other(tiny_cohort, tmp_path / "other"), (0, 0))


def make_other(cohort: Path, out: Path) -> Path:
    """Open a cross-validation with other folds, and do nothing."""
    asked = request(cohort, out, num_folds=4)
    open_folder(asked, load_config(None, "hnm", asked.overrides), Cohort.open(cohort))
    return out


def test_what_leaks_or_does_not_fit_is_refused(
    finished: Path, tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"encoder_splits is .*validation.*no validation patch may train"):
        crossval.run(request(tiny_cohort, tmp_path / "a", preset="hnm-paper"))
    own = finished / "repeat-0" / "fold-0" / "encoder-start.safetensors"
    with pytest.raises(InputError, match=r"may have seen the test patches.*--encoders-of"):
        crossval.run(request(tiny_cohort, tmp_path / "a", encoder=own))
    with pytest.raises(InputError, match=r"other settings \(folds: 3 -> 4\)"):
        crossval.run(request(tiny_cohort, finished, num_folds=4))
    with pytest.raises(InputError, match=r"other settings \(.*neg_ratio: 1.0 -> 0.5\)"):
        crossval.run(request(tiny_cohort, finished, "mining.neg_ratio=0.5"))
    shutil.copytree(tiny_cohort, tmp_path / "tiled-again")
    with_values(tmp_path / "tiled-again", "patient_id", {"slide-003": "somebody else"})
    with pytest.raises(InputError, match=r"other settings \(patient_id of 1 of 10 slides \(slide-003: .* -> somebody else\)\)"):
        crossval.run(request(tmp_path / "tiled-again", finished))
    with pytest.raises(InputError, match=r"--folds 6: there are only 5 patients with a positive slide.*Give --folds 5"):
        crossval.run(request(tiny_cohort, tmp_path / "b", num_folds=6))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(InputError, match="is no cross-validation of hnm"):
        crossval.run(request(tiny_cohort, tmp_path / "full"))
    with pytest.raises(InputError, match="write I/N with I from 1 to N"):
        crossval.run(request(tiny_cohort, tmp_path / "c", share="4/3"))
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match="starts its ranks itself"):
        crossval.run(request(tiny_cohort, tmp_path / "c"))


@pytest.mark.slow
def test_the_command_line_says_what_is_missing(finished: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "cv"
    shutil.copytree(finished, out, symlinks=True)
    shutil.rmtree(out / "repeat-0" / "fold-2")
    options = ["-k", "3", "-p", "hnm", "-n", "1", *SHORT]
    result = CliRunner().invoke(app, ["crossval", str(tiny_cohort), str(out), "--fold", "1/3", *options])
    assert result.exit_code == 0, result.output
    assert "2 of 3 folds are done. The same command, without --fold, does the rest" in result.output
    result = CliRunner().invoke(app, ["status", str(out)])
    assert result.exit_code == 0, result.output
    assert "2 of 3 folds are done\n  repeat 0, fold 0: done\n" in result.output
    assert "repeat 0, fold 2: not begun" in result.output
    submit = ["submit", "crossval", str(tiny_cohort), str(out), "--cluster", "debug", *options]
    result = CliRunner().invoke(app, submit)  # as a job, which is told that it is a rank, but for this command
    assert result.exit_code == 0, result.output
    assert (out / "predictions.parquet").read_bytes() == (finished / "predictions.parquet").read_bytes()
    assert "everything is done, nothing was submitted" in CliRunner().invoke(app, submit).output
    result = CliRunner().invoke(app, ["crossval", str(tiny_cohort), str(finished), *options])
    assert result.exit_code == 0, result.output
    assert "3 folds x 1: mean and 95 % interval over folds" in result.output
    assert f"wrote {finished / 'report.html'}: open it in a browser" in result.output.replace("\n", "")
    result = CliRunner().invoke(app, ["compare", str(finished), str(out)])
    assert result.exit_code == 0, result.output
    assert "B - A 0.000 (0.000 to 0.000)" in result.output
