"""One submitted pipeline on 2 nodes x 2 ranks, disturbed on its way, against the same commands on this machine.

A slide that cannot be read, a rank that is killed in the pretraining, a training that is preempted by a higher partition: the
metrics are those of an undisturbed local run on 4 ranks, to the bit. The long list is in benchmarks/cluster.py.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.cluster import attempts, mlflow_of, rank_of, sbatch
from hnm.config import dump_config, load_config
from launch import slurm
from launch.submissions import read_jobs
from shards.cohort import Cohort
from shards.synthetic import make_cohort_images
from tests.cluster.lab import hnm, intruder, processes_on, state_of, until, until_state
from tests.tiny import TILE, TINY, results_of

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    "HNM_TEST_PIPELINE" not in os.environ, reason="three chains of 4 ranks take minutes: set HNM_TEST_PIPELINE=1"
)
SETTINGS = [
    *TILE, *TINY, "tracking.enabled=true", "tile.max_failed=0.1", "rounds.num_rounds=1", "finetune.epochs_per_round=8",
    "checkpoint.every_steps=6", "slurm.array_size=2",
]  # fmt: skip


def said(*arguments: str | Path) -> str:
    """Return what a command prints, in one line."""
    return " ".join(hnm(*arguments).output.split())


def local(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start a command on 4 ranks of this machine."""
    command = [sys.executable, "-P", "-m", "launch.cli", *map(str, arguments), "--ranks", "4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def slides_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 drawn slides, and one whose file is missing."""
    table = make_cohort_images(tmp_path_factory.mktemp("slides"), 12, 4, 16, seed=0)
    lines = table.read_text(encoding="utf-8").splitlines()
    row = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
    row |= {"slide_id": "gone", "path": "gone.png", "split": "train"}
    table.write_text("\n".join([*lines, ",".join(row.values())]) + "\n", encoding="utf-8")
    return table


def test_a_disturbed_pipeline_ends_as_the_local_run(slides_csv: Path, tmp_path: Path) -> None:
    config, folder = tmp_path / "tiny.yaml", tmp_path / "p"
    resolved = yaml.safe_load(dump_config(load_config(None, "hnm", SETTINGS)))
    config.write_text(yaml.safe_dump(resolved), encoding="utf-8")
    run, pretrained, cohort = folder / "run", folder / "pretrained", folder / "cohort"
    submit = ["submit", "pipeline", slides_csv, folder, "--config", config, "--nodes", "2", "--gpus-per-node", "2"]
    submit += ["--time", "00:20:00", f"reader.stage_dir={tmp_path}/scratch-$SLURM_NODEID"]

    # the pretraining loses a rank: what waits for it goes, and the error names the rank
    assert hnm(*submit).exit_code == 0
    again = hnm(*submit)
    assert again.exit_code == 1
    assert "is queued or at work here" in again.stderr
    assert "train, job" in said("status", folder)
    assert "queued, waits: for the job before it (Dependency)" in said("status", folder)
    pretrain = read_jobs(pretrained)[-1].job_id
    until_state(pretrain, "RUNNING")
    until(lambda: "3" in [rank_of(pid) for pid in processes_on("node2", "_submit")], "rank 3 to start")
    victim = next(pid for pid in processes_on("node2", "_submit") if rank_of(pid) == "3")
    os.kill(victim, signal.SIGKILL)
    until_state(pretrain, "FAILED")
    until(lambda: not (processes_on("node1", "_submit") or processes_on("node2", "_submit")), "no orphans", 30)
    failed = hnm("status", folder)
    assert failed.exit_code == 1
    assert "rank 3 on node2: Killed" in " ".join(failed.output.split())
    until(lambda: state_of(read_jobs(run)[-1].job_id) == "CANCELLED", "its dependents to be cancelled", 60)
    # the slide that is not there is named, by its element; the others went on
    tiled = hnm("status", cohort)
    assert tiled.exit_code == 0  # one of 13 may fail: the merge has judged
    assert "1 finished, 1 failed (exit code 1)" in " ".join(tiled.output.split())
    assert "its slides:" in tiled.output
    assert "gone: failed: " in said("logs", cohort)
    assert Cohort.open(cohort).info["totals"]["status"] == {"done": 12, "empty": 0, "failed": 1}

    # the same command does what is missing; the training is preempted in the middle
    resubmitted = hnm(*submit)
    assert resubmitted.exit_code == 0
    train = read_jobs(run)[-2]
    local_run = local("train", cohort, tmp_path / "local", "--config", config)
    assert train.stage == "train"
    until(lambda: any((run / "round-000" / "encoder").glob("step-*")), "the training to be in the middle")
    intruder()
    until(lambda: "requeued once" in said("status", run), "the job to be requeued")
    until_state(read_jobs(run)[-1].job_id, "COMPLETED", "CANCELLED", "FAILED", timeout_s=240)
    output, _ = local_run.communicate(timeout=240)
    assert local_run.returncode == 0, output
    output, _ = (evaluation := local("evaluate", tmp_path / "local")).communicate(timeout=240)
    assert evaluation.returncode == 0, output

    # as the local run, to the bit: encoders, scores, metrics
    found, expected = results_of(run), results_of(tmp_path / "local")
    own = {"config.yaml", "encoder-start.safetensors"}  # the slurm section, and where the encoder came from
    assert {name for name in found if found[name] != expected.get(name)} <= own
    assert found.keys() == expected.keys()
    assert json.loads((run / "metrics.json").read_text())["num_test_slides"] > 0
    # two attempts and the evaluation, in state.json and in the one MLflow run
    assert [attempt["how"] for attempt in attempts(run)] == ["stopped as asked", "finished", "finished"]
    num_runs, tags = mlflow_of(run)
    assert (num_runs, tags["attempts"]) == (1, "3")
    assert tags["attempt.001"] == f"train, job {train.job_id} on node[1-2], 4 rank(s): stopped as asked"
    # what a person sees
    status = said("status", folder)
    assert "train, job" in status
    assert "finished; requeued once" in status
    assert "trained and evaluated" in status
    assert hnm("status", folder).exit_code == 0
    log = said("logs", run, "--rank", "3", "--job", train.job_id)
    assert "rank 3 of 4 on node2: device 1 of CUDA_VISIBLE_DEVICES=0,1, attempt 2" in log
    # a copy of the shards on each node
    for number in (0, 1):
        copies = sorted((tmp_path / f"scratch-{number}").rglob("*.tar"))
        assert len(copies) == 12
    # the slide that failed would be tried again
    assert "tile at once" in said(*submit, "--dry-run")


def test_a_queued_job_is_told_and_cancelled(tiny_cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert hnm("submit", "pretrain", tiny_cohort, out, "--nodes", "2", "slurm.extra={hold: true}", *TINY).exit_code == 0
    assert "queued, waits: held by its owner: scontrol release (JobHeldUser)" in said("status", out)
    assert "there is no such log (yet)" in said("logs", out)
    assert "cancelled pretrain (job" in said("cancel", out)
    assert "cancelled" in said("status", out)
    assert "no job is queued or at work" in said("cancel", out)


def test_the_batch_scripts_without_submitit(slides_csv: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = ROOT / "slurm" / "tile_array.sbatch"
    words = [
        "-c",
        "1",
        "-o",
        f"{tmp_path}/%x-%A-%a.log",
        script,
        slides_csv,
        tmp_path / "cohort",
        *TILE,
        "tile.max_failed=1",
    ]

    def queue(*options: str) -> str:
        command = ["sbatch", "--parsable", *options, *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    array = queue("--array=1-2")
    merge = queue("--array=1-1", f"--dependency=afterany:{array}", "--export=ALL,MERGE=1")
    until(lambda: slurm.states_of([merge]).get(f"{merge}_1") is not None, "the merge to be known")
    until_state(f"{merge}_1", "COMPLETED", "FAILED")
    assert Cohort.open(tmp_path / "cohort").info["totals"]["status"]["done"] == 12
    run = tmp_path / "run"
    job = sbatch(run, "train.sbatch", str(tmp_path / "cohort"), str(run), *TINY, "rounds.num_rounds=0")
    until_state(job, "COMPLETED", "FAILED")
    log = run.with_suffix(".log").read_text()
    assert state_of(job) == "COMPLETED", log
    assert "done. Next: hnm evaluate" in log
    assert len(list((run / "log").glob("rank-*.log"))) == 4
