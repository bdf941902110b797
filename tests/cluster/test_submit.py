"""`hnm submit` against a real SLURM: batch scripts that it takes, and mistakes that are told before anything is queued."""

import re
import subprocess
from pathlib import Path

import pytest

from launch.cluster import slurm
from tests.cluster.lab import ROOT, hnm
from tests.tiny import TINY

pytestmark = pytest.mark.slow


def queue(folder: Path) -> list[str]:
    """Return the batch scripts below a folder that are queued."""
    return [line for line in slurm.ask("squeue", "-h", "-o", "%o").splitlines() if str(folder) in line]


@pytest.mark.parametrize("config", ["camelyon16", "tcga_luad"])
def test_a_dry_run_prints_the_graph_and_scripts_that_sbatch_takes(
    config: str, tiny_slides: Path, tmp_path: Path
) -> None:
    options = ["--nodes", "2", "--gpus-per-node", "2", "--mem", "32G", "--throttle", "2", "slurm.stages.tile.cpus=4"]
    options += ["slurm.setup=['echo ready', 'export A=1']", "slurm.extra={mail-type: NONE}", "slurm.interface=eth0"]
    result = hnm("submit", "pipeline", tiny_slides, tmp_path / "p", "--config", config, *options, "--dry-run")
    assert result.exit_code == 0, result.output
    graph, *scripts = re.split(r"^# ---- (?:\w+) ----$", result.stdout, flags=re.MULTILINE)
    waits = [" ".join(line.split()[:4]) for line in graph.strip().splitlines()]
    assert waits == [
        "tile at once 10", "merge after tile (afterany)", "pretrain after merge (afterok)",
        "train after pretrain (afterok)", "evaluate after train (afterok)",
    ]  # fmt: skip
    assert len(scripts) == 5
    for script in scripts:
        done = subprocess.run(
            ["sbatch", "--test-only"], input=script.lstrip(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "to start at" in done.stderr
        assert {"echo ready", "export A=1", "#SBATCH --mail-type=NONE"} <= set(script.splitlines())
        assert "export GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0" in script
    tile, _, _, train, _ = scripts
    assert "#SBATCH --array=0-9%2" in tile
    assert "#SBATCH --cpus-per-task=4" in tile
    assert "gpus-per-node" not in tile
    assert "#SBATCH --gpus-per-node=2" in train
    assert "#SBATCH --ntasks-per-node=2" in train
    assert "#SBATCH --signal=USR2@120" in train
    assert not (tmp_path / "p").exists()
    assert queue(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "code", "parts"),
    [
        (["--partition", "gpu"], 1, ["slurm.partition=gpu: this cluster has high, main"]),
        (["--account", "nobody"], 1, ["slurm.account=nobody: yours are lab"]),
        (["--qos", "fast"], 1, ["slurm.qos=fast: yours are normal"]),
        (["--nodes", "3"], 1, ["no nodes for nodes=3", "main* has 2 nodes with 8 CPUs, 64000 MB, GPUs: gpu:2"]),
        (["--gpus-per-node", "4"], 1, ["no nodes for", "gpus-per-node=4", "GPUs: gpu:2"]),
        (["--mem", "900G"], 1, ["mem=900G", "64000 MB"]),
        (["--constraint", "a100"], 1, ["slurm.constraint=a100: the nodes' features are none"]),
        (
            ["--partition", "high", "--time", "3-0"],
            1,
            ["slurm.time: 4320 minutes are more than the partition allows", "high 1-00:00:00"],
        ),
        (["--time", "12h"], 2, ["'12h' is no time limit: write hours:minutes:seconds"]),
        (["--mem", "64"], 2, ["write a number and K, M, G or T"]),
        (["--cluster", "local", "--nodes", "2"], 2, ["is this machine: it has one node"]),
    ],
)
def test_what_the_cluster_would_refuse_is_said_before_anything_is_queued(
    options: list[str], code: int, parts: list[str], tiny_cohort: Path, tmp_path: Path
) -> None:
    result = hnm("submit", "pretrain", tiny_cohort, tmp_path / "out", *options, *TINY)
    assert result.exit_code == code, result.output
    for part in parts:
        assert part in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()
    assert queue(tmp_path) == []


def test_a_machine_without_slurm(tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "git").symlink_to("/usr/bin/git")
    monkeypatch.setenv("PATH", str(tools))
    result = hnm("submit", "pretrain", tiny_cohort, tmp_path / "out", *TINY)
    assert result.exit_code == 1
    assert "no SLURM on this machine: sbatch is not found" in result.stderr
    assert "--cluster local" in result.stderr
    assert not (tmp_path / "out").exists()


def test_mistakes_of_the_local_command_are_told_at_once(tiny_cohort: Path, tmp_path: Path) -> None:
    gone = hnm("submit", "train", tiny_cohort, tmp_path / "run", "--encoder", tmp_path / "e.safetensors", *TINY)
    assert (gone.exit_code, "there is no such file" in gone.stderr) == (1, True)
    none = hnm("submit", "evaluate", tmp_path / "run")
    assert (none.exit_code, "there is no such folder" in none.stderr) == (1, True)
    typo = hnm("submit", "pretrain", tiny_cohort, tmp_path / "out", "pretrain.epoch=1")
    assert (typo.exit_code, "Did you mean 'epochs'?" in typo.stderr) == (2, True)
    assert hnm("submit", "pretrain", tiny_cohort, "--node", "2").exit_code == 2
    assert queue(tmp_path) == []


def test_a_cross_validation_is_an_array_of_folds_and_a_summary(tiny_cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "cv"
    submit = ["submit", "crossval", tiny_cohort, out, "--folds", "3", "--repeats", "2", "--preset", "hnm", *TINY]
    options = ["--gpus-per-node", "2", "--cpus", "3", "--mem", "32G", "--throttle", "2", "slurm.stages.summary.mem=2G"]
    done = out / "repeat-0" / "fold-1" / "metrics.json"
    (out / "locks").mkdir(parents=True)
    done.parent.mkdir(parents=True)
    done.touch()
    result = hnm(*submit, *options, "--dry-run")
    assert result.exit_code == 0, result.output
    graph, *scripts = re.split(r"^# ---- (?:\w+) ----$", result.stdout, flags=re.MULTILINE)
    folds, summary = (" ".join(line.split()) for line in graph.strip().splitlines())
    assert folds.startswith("crossval at once 5 elements, 1 node x 2 ranks, gpus_per_node 2, cpus 3, mem 32G")
    assert summary.startswith("summary after crossval (afterok) 1 node x 1 rank, mem 2G")
    scripts.append((ROOT / "slurm" / "crossval_array.sbatch").read_text())
    for script in scripts:
        tried = subprocess.run(["sbatch", "--test-only"], input=script.lstrip(), capture_output=True, text=True, check=False)
        assert tried.returncode == 0, tried.stderr
    lines = set(scripts[0].splitlines())
    assert {"#SBATCH --array=0-4%2", "#SBATCH --nodes=1", "#SBATCH --ntasks-per-node=1", "#SBATCH --gpus-per-node=2"} <= lines
    assert {"#SBATCH --cpus-per-task=6", "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-3}"} <= lines  # 3 of each rank
    (first,) = [line for line in lines if line.startswith("# hnm crossval")]
    assert first.endswith(f"--folds 3 --repeats 2 --config {out}/slurm/config.yaml --ranks 2 --fold 1/6")
    assert "gpus-per-node" not in scripts[1]
    assert f"--repeats 2 --config {out}/slurm/config.yaml --ranks 1\n" in scripts[1]
    assert not (out / "slurm").exists()
    assert queue(tmp_path) == []
    for wrong, part in (
        (["--folds", "6"], "--folds 6: there are only 5 patients with a positive slide"),
        (["data.encoder_splits=[train,validation]"], "no validation patch may train"),
        (["--fold", "7/6"], "write I/N with I from 1 to N"),
        (["--encoders-of", tmp_path], "no cross-validation here"),
        (["--nodes", "2"], "hnm crossval takes one node a fold"),
        (["--partition", "gpu"], "slurm.partition=gpu: this cluster has high, main"),
    ):
        refused = hnm(*submit, *options, *wrong)
        assert refused.exit_code in (1, 2)
        assert part in " ".join(refused.stderr.split())
    assert queue(tmp_path) == []
