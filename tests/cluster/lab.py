"""A real SLURM cluster of virtual nodes on this machine, for tests and benchmarks: started once, asked, and broken on purpose.

The scripts beside this file do the work; see cluster-up.sh for how.
"""

import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from hnm.run.phase import read_state
from launch.cluster import slurm
from launch.cluster.submissions import read_jobs
from tests.command_line import hnm
from tests.skips import NEEDS_ROOT

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SETTINGS = {"SLURM_LAB_NODES": "2", "SLURM_LAB_CPUS": "8", "SLURM_LAB_GPUS": "2"}
# a rank in a job has 4 of the 8 CPUs that its node claims to have, and this machine has fewer for all of them: results
# are compared bit by bit with those of ranks that were started here, which share out what there really is
THREADS = {"OMP_NUM_THREADS": "1"}
TIMEOUT_S = 120.0


def why_not() -> str | None:
    """Return why no cluster can be started on this machine, None if it can."""
    if os.geteuid() != 0:
        return f"{NEEDS_ROOT} to start a cluster"
    probe = subprocess.run(["unshare", "--uts", "--net", "--mount", "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        return f"{NEEDS_ROOT} with the right to make namespaces, to start a cluster"
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
    """Have a cluster during the block, and its SLURM_CONF in the environment.

    One that is up already is used, also by several processes (pytest -n 2) at a time: the last of them ends it, unless it
    was started by hand.
    """
    folder = Path(os.environ.get("SLURM_LAB_DIR", "/tmp/hnm-test-cluster"))  # munge refuses pytest's private folders
    by_hand = folder.with_name(f"{folder.name}.by-hand")
    before = dict(os.environ)
    os.environ.update({"SLURM_LAB_DIR": str(folder), **SETTINGS, **THREADS})
    with open(folder.with_name(f"{folder.name}.users"), "w") as users:
        try:
            if _is_alone(users):
                by_hand.unlink(missing_ok=True)
                if (folder / "run" / "settings").is_file():
                    by_hand.touch()
            fcntl.flock(users, fcntl.LOCK_SH)
            done = subprocess.run([HERE / "cluster-up.sh"], capture_output=True, text=True, timeout=900, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"the cluster did not start: {done.stderr}")
            os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
            yield
        finally:
            if _is_alone(users) and not by_hand.exists():
                subprocess.run([HERE / "cluster-down.sh", "--purge"], capture_output=True, timeout=300, check=False)
            os.environ.clear()
            os.environ.update(before)


def _is_alone(users: Any) -> bool:
    """Lock the file for this process alone, if no other has it."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def submitted(*arguments: str | Path, folder: Path) -> str:
    """Submit, and return the number of the last job of `folder`."""
    result = hnm("submit", *arguments)
    if result.exit_code != 0:
        raise RuntimeError(result.output)
    return read_jobs(folder)[-1].job_id


def node(action: str, name: str) -> str:
    """Break or mend a node: crash, start, cut, join; or list the processes on it: pids."""
    command = [str(HERE / "cluster-node.sh"), action, name]
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
    options = ["-p", "high", "-N", "2", "--exclusive", "-o", "/dev/null", "--wrap", f"sleep {seconds}"]
    return slurm.ask("sbatch", "--parsable", *options).strip()


def sbatch(script: str, options: Sequence[str | Path], *arguments: str | Path) -> str:
    """Submit one of the scripts in slurm/, for two ranks a node where it starts ranks; return the job's number."""
    environment = {**os.environ, "RANKS_PER_NODE": "2", "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = ["sbatch", "--parsable", *map(str, options), str(ROOT / "slurm" / script), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def signal_rank(folder: Path, rank: int, name: str, number: signal.Signals) -> None:
    """Send a signal to one rank of the job at work on a folder, as soon as it is there."""
    until(lambda: rank in _ranks_on(name, folder), f"rank {rank} to start on {name}")
    os.kill(_ranks_on(name, folder)[rank], number)


def _ranks_on(name: str, folder: Path) -> dict[int, int]:
    """Return {rank: pid} of a folder's submitit processes on a node."""
    ranks: dict[int, int] = {}
    for pid in processes_on(name, f"_submit\0{folder}"):
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == "srun":  # it has their command line, too
                continue
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        ranks |= {int(v.split(b"=")[1]): pid for v in variables if v.startswith(b"SLURM_PROCID=")}
    return ranks


def no_orphans(folder: Path, timeout_s: float = 30.0) -> None:
    """Wait until no rank of a folder's jobs is left on any node."""
    until(lambda: not any(processes_on(name, str(folder)) for name in ("node1", "node2")), "no orphans", timeout_s)


def attempts(run: Path) -> list[dict[str, Any]]:
    """Return the attempts of state.json."""
    return read_state(run).get("attempts", []) if (run / "state.json").is_file() else []


def mlflow_of(database: Path, run: Path) -> tuple[int, dict[str, str]]:
    """Return the number of MLflow runs in a database, and the tags of the one of a run directory."""
    ours = "select run_uuid from tags where key = 'hnm.run_directory_id' and value = ?"
    own_id = (run / "run_id.txt").read_text().strip()
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        (count,) = connection.execute("select count(*) from runs").fetchone()
        tags = connection.execute(f"select key, value from tags where run_uuid in ({ours})", (own_id,)).fetchall()
    return count, dict(tags)
