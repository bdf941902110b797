"""A real SLURM cluster of virtual nodes on this machine, for tests and benchmarks: started once, asked, and broken on purpose.

The scripts beside this file do the work; see cluster-up.sh for how.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from typer.testing import CliRunner, Result

from launch import slurm
from launch.cli import app
from launch.submissions import read_jobs

HERE = Path(__file__).parent
SETTINGS = {"SLURM_LAB_NODES": "2", "SLURM_LAB_CPUS": "8", "SLURM_LAB_GPUS": "2"}
TIMEOUT_S = 120.0


def why_not() -> str | None:
    """Return why no cluster can be started on this machine, None if it can."""
    if os.geteuid() != 0:
        return "a cluster needs root"
    probe = subprocess.run(["unshare", "--uts", "--net", "--mount", "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        return "a cluster needs namespaces"
    if shutil.which("slurmctld", path="/usr/sbin:/usr/bin") is None:
        if shutil.which("apt-get") is None:
            return "a cluster needs Debian's package slurm-wlm"
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False, timeout=300)
        known = subprocess.run(["apt-cache", "policy", "slurm-wlm"], capture_output=True, text=True, check=False).stdout
        if "Candidate: (none)" in known or not known:
            return "a cluster needs Debian's package slurm-wlm, and apt-get does not find it"
    return None


@contextmanager
def lab() -> Iterator[None]:
    """Have a cluster during the block, and its SLURM_CONF in the environment; one that is up already is used and left."""
    folder = Path(os.environ.get("SLURM_LAB_DIR", "/tmp/hnm-test-cluster"))  # munge refuses pytest's private folders
    was_up = (folder / "run" / "settings").is_file()
    before = dict(os.environ)
    os.environ.update({"SLURM_LAB_DIR": str(folder), **SETTINGS})
    try:
        done = subprocess.run([HERE / "cluster-up.sh"], capture_output=True, text=True, timeout=900, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"the cluster did not start: {done.stderr}")
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        yield
    finally:
        if not was_up:
            subprocess.run([HERE / "cluster-down.sh", "--purge"], capture_output=True, timeout=300, check=False)
        os.environ.clear()
        os.environ.update(before)


def hnm(*arguments: str | Path) -> Result:
    """Run the command in this process; exceptions that are no messages to the user are raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def submitted(*arguments: str | Path, folder: Path) -> str:
    """Submit, and return the number of the last job of `folder`."""
    result = hnm("submit", *arguments)
    if result.exit_code != 0:
        raise RuntimeError(result.output)
    return read_jobs(folder)[-1].job_id


def node(action: str, name: str) -> str:
    """Break or mend a node: crash, start, cut, join; or list the processes on it: pids."""
    command = [HERE / "cluster-node.sh", action, name]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def processes_on(name: str, word: str = "launch") -> list[int]:
    """Return the processes on a node whose command line has `word` in it."""
    found = []
    for pid in map(int, node("pids", name).split()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if word.encode() in command:
            found.append(pid)
    return found


def until(condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S, every_s: float = 0.2) -> None:
    """Wait for something to become true.

    Raises:
        TimeoutError: naming what.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(every_s)


def state_of(job_id: str) -> str:
    """Return SLURM's word for a job's state."""
    state = slurm.states_of([job_id]).get(job_id)
    return state.state if state else "UNKNOWN"


def until_state(job_id: str, *states: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until a job is in one of these states."""
    until(lambda: state_of(job_id) in states, f"job {job_id} to be {' or '.join(states)}", timeout_s, every_s=0.5)


def intruder(seconds: float = 1.0) -> str:
    """Start a job in the partition that evicts others, on both nodes; return its number."""
    command = [
        "sbatch",
        "--parsable",
        "-p",
        "high",
        "-N",
        "2",
        "--exclusive",
        "-o",
        "/dev/null",
        "--wrap",
        f"sleep {seconds}",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
