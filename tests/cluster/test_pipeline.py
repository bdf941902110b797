"""One submitted pipeline of 2 nodes x 2 ranks, preempted in its training, against the same commands on this machine.

    13 slides, one without a file ──▶ tile (array of 2) ─▶ merge ─▶ pretrain ─▶ train, preempted in the middle ─▶ evaluate

The long list of disturbances is in benchmarks/cluster.py.
"""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.torch import load_file

from hnm.config import dump_config, load_config
from hnm.evidence.evaluate import read_metrics
from launch.cluster.follow import log_path
from launch.cluster.submissions import SubmittedJob, read_jobs
from shards.cohort.cohort import Cohort
from shards.drawn.synthetic import make_cohort_images
from tests.cluster.lab import ROOT, attempts, hnm, intruder, mlflow_of, state_of, until, until_state
from tests.tiny import TILE, TINY, results_of

pytestmark = pytest.mark.slow
SETTINGS = [
    *TILE, *TINY, "tile.max_failed=0.1", "rounds.num_rounds=1", "finetune.epochs_per_round=8",
    "checkpoint.every_steps=6", "slurm.array_size=2", "slurm.stages.evaluate={nodes: 1, ranks_per_node: 1}",
]  # fmt: skip
LONG_S = 300.0
START = "encoder-start.safetensors"
# the slurm section and where it is tracked; the name of the file that the start encoder came from; the run's name, and seconds
OWN = {"config.yaml", START, "metrics.json", "report.html", "model/model.json", "model/MODEL.md", "figures/training.png"}


@dataclass
class Pipeline:
    """A finished pipeline.

    Attributes:
        folder: with cohort/, pretrained/ and run/.
        local: the run of the same slides that was made on this machine.
        train, evaluate: jobs.
        told: what `hnm status` said of the folder, by the moment when it was asked.
        followed: what `hnm logs --follow` said of rank 3 of the training.
        submit: the command that submitted it.
    """

    folder: Path
    local: Path
    submit: list[str]
    told: dict[str, str] = field(default_factory=dict)
    followed: str = ""

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def train(self) -> SubmittedJob:
        return read_jobs(self.run)[0]

    @property
    def evaluate(self) -> SubmittedJob:
        return read_jobs(self.run)[1]

    def status(self, moment: str) -> None:
        self.told[moment] = in_one_line(hnm("status", self.folder).output)

    def tells_of_requeue(self) -> bool:
        self.status("requeued")
        return "requeued once" in self.told["requeued"]

    def log(self, job: SubmittedJob, rank: int = 0, element: int = 0) -> str:
        return log_path(self.run, job, rank, element).read_text()


def in_one_line(text: str) -> str:
    return " ".join(text.split())


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-P", "-m", "launch.cli", *map(str, arguments)]


@pytest.fixture(scope="module")
def slides_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 drawn slides, and one whose file is missing."""
    table = make_cohort_images(tmp_path_factory.mktemp("slides"), 12, 4, 16, seed=0)
    lines = table.read_text(encoding="utf-8").splitlines()
    row = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
    row |= {"slide_id": "gone", "path": "gone.png", "split": "train"}
    table.write_text("\n".join([*lines, ",".join(row.values())]) + "\n", encoding="utf-8")
    return table


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    resolved = yaml.safe_load(dump_config(load_config(None, "hnm", SETTINGS)))
    path.write_text(yaml.safe_dump(resolved), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def pipeline(
    slides_csv: Path, config: Path, tracking_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Pipeline:
    """Submit the pipeline, disturb it, wait for its end; meanwhile run the same commands here, the training on 4 ranks."""
    folder = tmp_path_factory.mktemp("pipeline")
    submit = ["submit", "pipeline", slides_csv, folder / "p", "--config", config, "--nodes", "2", "--gpus-per-node", "2"]
    submit += ["--time", "00:20:00", f"reader.stage_dir={folder}/scratch-$SLURM_NODEID"]
    shutil.copy(tracking_database, folder / "mlflow.db")
    submit += ["tracking.enabled=true", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
    found = Pipeline(folder / "p", folder / "local" / "run", list(map(str, submit)))
    assert hnm(*found.submit).exit_code == 0
    found.status("queued")
    cohort = folder / "local" / "cohort"
    assert hnm("tile", slides_csv, cohort, "--config", config, "--workers", "1").exit_code == 0
    train = command("train", cohort, found.local, "--config", config, "--ranks", "4")
    local = subprocess.Popen(train, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    preempt(found)
    until_state(found.evaluate.job_id, "COMPLETED", "CANCELLED", "FAILED", timeout_s=LONG_S)
    found.status("finished")
    assert state_of(found.evaluate.job_id) == "COMPLETED", found.told["finished"]
    _, errors = local.communicate(timeout=LONG_S)
    assert local.returncode == 0, errors
    assert hnm("evaluate", found.local).exit_code == 0
    return found


def preempt(pipeline: Pipeline) -> None:
    """Let a job of a higher partition take both nodes when the training is in the middle; follow its log meanwhile."""
    checkpoints = pipeline.run / "round-000" / "encoder"
    until(lambda: any(checkpoints.glob("step-*")), "the training to be in the middle", LONG_S)
    pipeline.status("running")
    words = command("logs", pipeline.run, "--rank", "3", "--job", pipeline.train.job_id, "--follow")
    follower = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    intruder()
    until(lambda: state_of(pipeline.train.job_id) != "RUNNING", "the training to be preempted", every_s=0.5)
    until(pipeline.tells_of_requeue, "hnm status to say so", every_s=0.5)  # SLURM ends the job before it counts
    until_state(pipeline.evaluate.job_id, "COMPLETED", "CANCELLED", "FAILED", timeout_s=LONG_S)
    pipeline.followed, _ = follower.communicate(timeout=60)


def test_its_results_are_those_of_the_local_run(pipeline: Pipeline) -> None:
    found, expected = results_of(pipeline.run), results_of(pipeline.local)
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} <= OWN
    started, expected_start = load_file(pipeline.run / START), load_file(pipeline.local / START)
    assert all(tensor.equal(expected_start[name]) for name, tensor in started.items())
    metrics, expected_metrics = ({**read_metrics(run), "seconds": None} for run in (pipeline.run, pipeline.local))
    assert metrics == expected_metrics
    assert metrics["num_test_slides"] > 0


def test_its_attempts_are_on_record_in_one_mlflow_run(pipeline: Pipeline) -> None:
    assert [attempt["how"] for attempt in attempts(pipeline.run)] == ["stopped as asked", "finished", "finished"]
    num_runs, tags = mlflow_of(pipeline.folder.parent / "mlflow.db", pipeline.run)
    assert (num_runs, tags["hnm.attempts"]) == (2, "3")  # the other one is the pretraining's
    job = f"train, job {pipeline.train.job_id} on node[1-2], 4 rank(s)"
    assert tags["hnm.attempt.001"] == f"{job}: stopped as asked"
    assert tags["hnm.attempt.002"] == f"{job}: finished"


def test_each_rank_has_its_device(pipeline: Pipeline) -> None:
    for rank in range(4):
        place = f"rank {rank} of 4 on node{1 + rank // 2}: device {rank % 2} of CUDA_VISIBLE_DEVICES=0,1"
        log = pipeline.log(pipeline.train, rank)
        assert f"{place}, attempt 1\n" in log
        assert f"{place}, attempt 2\n" in log


def test_a_failed_element_names_its_slides_and_the_rest_goes_on(pipeline: Pipeline) -> None:
    cohort = pipeline.folder / "cohort"
    assert Cohort.open(cohort).info["totals"]["status"] == {"done": 12, "empty": 0, "failed": 1}
    tiled = hnm("status", cohort)
    assert tiled.exit_code == 0  # one of 13 may fail: the merge has judged
    assert "tile, job" in tiled.output
    elements = read_jobs(cohort)[0].elements
    number = next(i for i, slides in enumerate(elements) if "gone" in slides)
    named = f"element {number} failed (exit code 1); its slides: {', '.join(elements[number])}"
    assert re.search(re.escape(named) + r" rank 0 on node\d: gone: failed: ", in_one_line(tiled.output))
    log = hnm("logs", cohort, "--element", number, "--job", read_jobs(cohort)[0].job_id).output
    assert "gone: failed: " in in_one_line(log)
    # it would be tried again, and what is done would not
    again = hnm(*pipeline.submit, "--dry-run").output.splitlines()
    assert again[0].split()[:3] == ["tile", "at", "once"]


def test_what_a_person_is_told(pipeline: Pipeline) -> None:
    assert "queued, waits: for the job before it (Dependency)" in pipeline.told["queued"]
    assert "running on node[1-2]" in pipeline.told["running"]
    assert "running round 0: " in pipeline.told["running"]  # the phase may be the one of 5 s before
    assert "finished; requeued once" in pipeline.told["finished"]
    assert "trained and evaluated" in pipeline.told["finished"]
    assert hnm("status", pipeline.folder).exit_code == 0
    assert pipeline.followed.startswith(f"==> train, job {pipeline.train.job_id}, rank 3: ")
    assert "rank 3 of 4 on node2: device 1 of CUDA_VISIBLE_DEVICES=0,1, attempt 2\n" in pipeline.followed
    assert "Job completed successfully" in pipeline.followed
    assert "no job is queued or at work" in hnm("cancel", pipeline.folder).output


def test_each_node_has_copies_of_the_shards_that_it_reads(pipeline: Pipeline) -> None:
    scratch = [pipeline.folder.parent / f"scratch-{number}" for number in (0, 1)]
    assert [len(list(folder.rglob("*.tar"))) for folder in scratch] == [12, 10]  # two slides are read by evaluate alone


def test_predictions_of_a_job_are_the_local_ones(pipeline: Pipeline, slides_csv: Path, tmp_path: Path) -> None:
    images = sorted((slides_csv.parent / "images").glob("*.png"))[:2]
    out = tmp_path / "out"
    assert hnm("submit", "predict", pipeline.run, *images, "--out", out, "--patch-threshold", "0.25").exit_code == 0
    (job,) = read_jobs(out)
    until_state(job.job_id, "COMPLETED", "FAILED")
    status = hnm("status", out)
    assert (status.exit_code, "predict, job" in status.output) == (0, True)
    assert "2 slides scored" in hnm("logs", out).output
    local = tmp_path / "local"
    assert hnm("predict", pipeline.run, *images, "--out", local, "--patch-threshold", "0.25").exit_code == 0
    found, expected = (pq.read_table(folder / "predictions.parquet").to_pylist() for folder in (out, local))
    assert found == expected
    assert found[0]["num_patches"] == 16
