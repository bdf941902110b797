"""Disturb a training of 2 nodes x 2 ranks on a real SLURM in every way we know, and compare what comes out bit by bit.

    python -m benchmarks.cluster                    all of it; writes a dated file in benchmarks/results
    python -m benchmarks.cluster preempted crash    only these

Needs root, namespaces and Debian's SLURM packages: a cluster of two virtual nodes is started and ended (tests/cluster).
Prints one JSON line; the exit code is 1 if a single byte differs, or a job did not do what it should.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.about import about
from hnm.config import load_config
from launch.cluster import slurm
from launch.cluster.follow import job_lines, log_path
from launch.cluster.submissions import read_jobs
from launch.process.preemption import STOPPING
from shards.drawn.synthetic import make_cohort_images
from shards.errors import InputError
from shards.tiling.tile import tile_cohort
from tests.cluster.lab import (
    attempts,
    hnm,
    intruder,
    lab,
    mlflow_of,
    no_orphans,
    node,
    sbatch,
    signal_rank,
    state_of,
    submitted,
    until,
    until_state,
)
from tests.tiny import TILE, TINY, results_of

ROOT = Path(__file__).parents[1]
# 480 steps of fine-tuning, 20 to 60 s, in one round
LONG = [
    *TINY,
    "tracking.enabled=true",
    "rounds.num_rounds=1",
    "finetune.epochs_per_round=25",
    "checkpoint.every_steps=20",
]
SITE = ["--nodes", "2", "--ranks", "2", "--time", "00:30:00"]
FINISH_S = 400.0

Figures = dict[str, Any]


def start(cohort: Path, run: Path, *more: str) -> str:
    """Submit the training and return its job's number, when it is in the middle of fine-tuning."""
    job = submitted("train", cohort, run, *SITE, *LONG, *more, folder=run)
    until(lambda: in_finetuning(run), f"{run.name} to fine-tune", FINISH_S)
    return job


def in_finetuning(run: Path) -> bool:
    return any((run / "round-000" / "encoder").glob("step-*"))


def undisturbed(cohort: Path, run: Path) -> Figures:
    finished(start(cohort, run))
    return {}


def finished(job: str) -> None:
    """Wait for a job's good end."""
    until_state(job, "COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT", timeout_s=FINISH_S)
    if state_of(job) != "COMPLETED":
        raise RuntimeError(f"job {job} is {state_of(job)}")


def preempted(num_times: int, cohort: Path, run: Path) -> Figures:
    """A job of a higher partition takes both nodes, again and again as soon as the job is back at work."""
    job = start(cohort, run)
    for num_begun in range(1, num_times + 1):
        intruder()
        until(lambda: len(attempts(run)) > num_begun, f"attempt {num_begun + 1}", FINISH_S)  # noqa: B023 - called at once
        time.sleep(3.0)
    finished(job)
    return {}


def requeued(cohort: Path, run: Path) -> Figures:
    """`scontrol requeue`, which sends TERM, and KILL 5 s later."""
    job = start(cohort, run)
    slurm.ask("scontrol", "requeue", job)
    finished(job)
    return {}


def time_limit(cohort: Path, run: Path) -> Figures:
    """A limit of two minutes, whose signal comes in the middle of a step that takes long: a rank is stopped until then.

    SLURM looks at limits twice a minute, and sends the signal 60 to 90 s before this one.
    """
    job = start(cohort, run, "--time", "00:02:00", "slurm.signal_delay_s=60")
    signal_rank(run, 3, "node2", signal.SIGSTOP)
    log = log_path(run, read_jobs(run)[0])
    until(lambda: STOPPING in log.read_bytes(), "SLURM to send its signal", FINISH_S)
    signal_rank(run, 3, "node2", signal.SIGCONT)
    finished(job)
    return {}


def node_lost(broken: str, mended: str, cohort: Path, run: Path) -> Figures:
    """A node is lost, and comes back when SLURM has noticed.

    Args:
        broken: crash: it loses power; cut: its cable is pulled.
        mended: start or join.
    """
    job = start(cohort, run)
    node(broken, "node2")
    until(lambda: state_of(job) != "RUNNING", "SLURM to notice", FINISH_S)
    node(mended, "node2")
    finished(job)
    return {}


def killed(cohort: Path, run: Path) -> Figures:
    """`kill -9` of one rank ends the job and leaves nothing behind; submitted again, it goes on."""
    job = start(cohort, run)
    begin = time.monotonic()
    signal_rank(run, 3, "node2", signal.SIGKILL)
    until_state(job, "FAILED", timeout_s=FINISH_S)
    seconds = time.monotonic() - begin
    no_orphans(run)
    (_, *errors), failed = job_lines(run)
    if not failed or "rank 3 on node2: Killed" not in " ".join(errors):
        raise RuntimeError(f"the error does not name the rank: {errors}")
    finished(submitted("train", cohort, run, *SITE, *LONG, folder=run))
    return {"seconds_until_failed": round(seconds, 1), "error": errors[-1].strip()}


def cancelled(cohort: Path, run: Path) -> Figures:
    """`hnm cancel`: the job saves, does not come back, and goes on when it is submitted again."""
    job = start(cohort, run)
    hnm("cancel", run)
    until_state(job, "CANCELLED")
    time.sleep(8.0)  # longer than a requeued job is held back
    if state_of(job) != "CANCELLED":
        raise RuntimeError("a cancelled job came back")
    finished(submitted("train", cohort, run, *SITE, *LONG, folder=run))
    return {}


def batch_script(cohort: Path, run: Path) -> Figures:
    """slurm/train.sbatch (torchrun, no submitit), preempted."""
    job = sbatch("train.sbatch", ["-N", "2", "-o", run.with_suffix(".log")], cohort, run, *LONG)
    until(lambda: in_finetuning(run), "fine-tuning", FINISH_S)
    intruder()
    finished(job)
    return {}


DISTURBANCES: dict[str, Callable[[Path, Path], Figures]] = {
    "preempted": partial(preempted, 1),
    "preempted_thrice": partial(preempted, 3),
    "requeued": requeued,
    "time_limit": time_limit,
    "crash": partial(node_lost, "crash", "start"),
    "cable": partial(node_lost, "cut", "join"),
    "killed": killed,
    "cancelled": cancelled,
    "batch_script": batch_script,
}


def trial(name: str, cohort: Path, run: Path, expected: dict[str, bytes]) -> Figures:
    """Disturb one training and return what came of it."""
    begin = time.monotonic()
    try:
        figures = DISTURBANCES[name](cohort, run)
        found = results_of(run)
        num_runs, tags = mlflow_of(run / "mlflow.db", run)
        # the script's run was configured by a command line, not by `hnm submit`: its config.yaml has no slurm section of ours
        differing = {file for file, _ in found.items() ^ expected.items() if file != "config.yaml"}
        figures |= {
            "identical": not differing, "files_that_differ": sorted(differing),
            "attempts": [attempt["how"] for attempt in attempts(run)], "mlflow_runs": num_runs,
            "attempts_in_mlflow": int(tags.get("hnm.attempts", 0)),
        }  # fmt: skip
        figures["ok"] = not differing and num_runs == 1 and len(attempts(run)) == figures["attempts_in_mlflow"] > 1
    except (RuntimeError, TimeoutError, InputError, subprocess.CalledProcessError) as error:
        figures = {"ok": False, "identical": False, "error": str(error)}
        for job in read_jobs(run):
            subprocess.run(["scancel", job.job_id], check=False)
        for name_ in ("node1", "node2"):
            node("join", name_)
            node("start", name_)
    return {**figures, "seconds": round(time.monotonic() - begin, 1)}


def run_all(names: list[str], keep: Path | None) -> Figures:
    """Run the undisturbed training and the trials; return the figures by name."""
    with tempfile.TemporaryDirectory() as temporary, lab():
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        slides = make_cohort_images(folder / "slides", 12, 4, 16, seed=0)
        tile_cohort(slides, folder / "cohort", load_config(overrides=TILE).tile)
        begin = time.monotonic()
        undisturbed(folder / "cohort", folder / "undisturbed")
        expected = results_of(folder / "undisturbed")
        trials = {"undisturbed": {"seconds": round(time.monotonic() - begin, 1), "num_files": len(expected)}}
        for name in names:
            trials[name] = trial(name, folder / "cohort", folder / name, expected)
            print(f"{name}: {json.dumps(trials[name])}", flush=True)
    return trials


def main() -> int:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(DISTURBANCES)}; none: all")
    parser.add_argument("--keep", type=Path, help="folder for the runs and logs, to look at; default: a temporary one")
    parser.add_argument("--out", type=Path, help="file for the result; default with no NAME: in benchmarks/results")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - DISTURBANCES.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    result: Figures = about("cluster", bool(arguments.names), ("torch", "submitit", "mlflow"))
    trials = run_all(arguments.names or list(DISTURBANCES), arguments.keep)
    disturbed = [figures for name, figures in trials.items() if name != "undisturbed"]
    result |= {
        "trials": trials,
        "identical": all(f["identical"] for f in disturbed),
        "ok": all(f["ok"] for f in disturbed),
    }
    out = arguments.out or (
        None if arguments.names else ROOT / "benchmarks" / "results" / f"{result['date']}-cluster.json"
    )
    if out is not None:
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
