"""What SLURM says: the states of jobs, in words a person understands, and why it would refuse a batch script.

Everything goes through SLURM's own commands (sbatch, squeue, sacct, sinfo, sacctmgr, scancel); nothing is cached.
"""

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from hnm.slurm_config import minutes_of
from shards.errors import InputError

TIMEOUT_S = 60  # a controller that does not answer within a minute is down
LIVE = (
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "COMPLETING",
    "SUSPENDED",
    "REQUEUED",
    "REQUEUE_HOLD",
    "SIGNALING",
    "STOPPED",
)
# What its commands say when they find no controller, or it does not answer.
NO_CONTROLLER = re.compile(
    "configuration source|failed to fetch config|contact slurm|connection (failure|refused)|timed out|zero bytes|no route", re.I
)
REASONS = {
    "Resources": "for free nodes",
    "Priority": "other jobs come first",
    "Dependency": "for the job before it",
    "DependencyNeverSatisfied": "for a job that failed: it will never start, cancel it",
    "BeginTime": "it was requeued a moment ago",
    "JobArrayTaskLimit": "for elements of the same array (throttle)",
    "JobHeldUser": "held by its owner: scontrol release",
    "JobHeldAdmin": "held by an administrator",
    "PartitionTimeLimit": "its time limit is above the partition's: it will never start",
    "PartitionNodeLimit": "it asks for more nodes than the partition has: it will never start",
    "ReqNodeNotAvail": "a node that it asks for is down or reserved",
    "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions": "nodes are down or reserved",
    "None": "SLURM has not looked at it yet",
}
ENDINGS = {
    "COMPLETED": "finished",
    "FAILED": "failed",
    "TIMEOUT": "stopped at its time limit",
    "NODE_FAIL": "lost a node",
    "OUT_OF_MEMORY": "ran out of memory (slurm.mem)",
    "PREEMPTED": "preempted by another job",
    "CANCELLED": "cancelled",
    "DEADLINE": "missed its deadline",
    "BOOT_FAIL": "its nodes did not start",
    "REVOKED": "moved to another cluster",
}


class NoAnswerError(InputError):
    """SLURM cannot be asked from here: its commands are missing, or its controller does not answer."""


@dataclass(frozen=True)
class JobState:
    """What SLURM says of one job, or of one element of an array.

    Attributes:
        job_id: such as 17 or 17_3.
        state: SLURM's word, such as PENDING.
        reason: why it is in this state.
        restarts: how often it has gone back to the queue; None where only the accounting knows the job.
        nodes: where it runs or ran, in SLURM's notation.
        exit_code: of the batch script, minus the signal that ended it; None while it lives.
    """

    job_id: str
    state: str
    reason: str = ""
    restarts: int | None = None
    nodes: str = ""
    exit_code: int | None = None

    @property
    def is_live(self) -> bool:
        """Is it queued, running, or just ending?"""
        return self.state in LIVE

    def words(self) -> str:
        """Return the state in words."""
        again = {None: "", 0: "", 1: "; requeued once", 2: "; requeued twice"}
        times = again.get(self.restarts, f"; requeued {self.restarts} times")
        if self.state == "PENDING":
            # an array's reasons come as "(Priority)", and some with a comma and a list of nodes
            reason = self.reason.strip("()")
            known = REASONS.get(reason) or REASONS.get(reason.split(",")[0]) or "see man squeue, JOB REASON CODES"
            return f"queued, waits: {known} ({reason}){times}"
        if self.state in LIVE:
            return f"{self.state.lower()} on {self.nodes or 'its nodes'}{times}"
        ended = ENDINGS.get(self.state, self.state.lower())
        if self.state == "FAILED" and self.exit_code is not None:
            ended += f" (exit code {self.exit_code})" if self.exit_code >= 0 else f" (signal {-self.exit_code})"
        return ended + times


def has_slurm() -> bool:
    """Are SLURM's commands on this machine?"""
    return shutil.which("sbatch") is not None


def ask(*command: str, check: bool = True) -> str:
    """Run one of SLURM's commands and return what it prints.

    Raises:
        InputError: the command is missing, does not answer, or (with `check`) fails.
    """
    done = _run(command)
    if check and done.returncode != 0:
        raise InputError(f"SLURM: {' '.join(command[:2])}: {_first_line(done.stderr or done.stdout)}")
    return done.stdout if check else done.stdout + done.stderr


def _run(command: Sequence[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of SLURM's commands, with `text` as its input.

    Raises:
        NoAnswerError: the command is missing, or does not answer.
    """
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise NoAnswerError(
            f"no SLURM on this machine ({command[0]} is not found). Log in to a machine that submits jobs, or try the "
            "same with --cluster local"
        ) from None
    except subprocess.TimeoutExpired:
        raise NoAnswerError(f"SLURM does not answer: {command[0]} took more than {TIMEOUT_S} s. Try again later") from None
    if done.returncode != 0 and NO_CONTROLLER.search(done.stderr):
        raise NoAnswerError(f"SLURM does not answer: {command[0]}: {_first_line(done.stderr)}. Try again later")
    return done


def states_of(job_ids: Sequence[str]) -> dict[str, JobState]:
    """Return what SLURM knows of these jobs, by id; an array's elements each under their own id (17_3).

    A job that ended long ago, on a cluster without accounting, is missing.
    """
    if not job_ids:
        return {}
    listed = ",".join(sorted({job_id.split("_")[0] for job_id in job_ids}))
    fields = ("JobArrayID", "State", "Reason", "RestartCnt", "NodeList", "exit_code")
    text = ask(
        "squeue",
        "-h",
        "-r",
        "-a",
        "-t",
        "all",
        "-j",
        listed,
        "-O",
        ",".join(f"{name}:|" for name in fields),
        check=False,
    )
    states = {}
    for line in text.splitlines():
        columns = [column.strip() for column in line.split("|")]
        if len(columns) > len(fields):  # else: "Invalid job id", of jobs that the controller has forgotten
            job_id, state, reason, restarts, nodes, status = columns[: len(fields)]
            code = None if state in LIVE else os.waitstatus_to_exitcode(int(status))
            states[job_id] = JobState(job_id, state, reason, int(restarts), nodes, code)
    return (
        _accounted(listed) | states if any(job_id.split("_")[0] not in _bases(states) for job_id in job_ids) else states
    )


def _accounted(listed: str) -> dict[str, JobState]:
    """Return what the accounting knows, {} on a cluster without it."""
    command = ("sacct", "-X", "-n", "-P", "-j", listed, "-o", "JobID,State,NodeList,ExitCode")
    states = {}
    for line in ask(*command, check=False).splitlines():
        columns = line.split("|")
        if len(columns) == 4 and re.fullmatch(r"\d+(_\d+)?", columns[0]):
            job_id, state, nodes, ending = columns
            code, signal = (int(number) for number in ending.split(":"))
            state = state.split()[0]  # "CANCELLED by 1000"
            states[job_id] = JobState(job_id, state, nodes=nodes, exit_code=None if state in LIVE else code or -signal)
    return states


def _bases(states: dict[str, JobState]) -> set[str]:
    return {job_id.split("_")[0] for job_id in states}


def cancel(job_ids: Sequence[str]) -> None:
    """Cancel jobs, all in one call: a job that waits for another must not start because that one ends."""
    ask("scancel", *job_ids)


def requeue(job_id: str) -> None:
    """Put a running job back into the queue."""
    ask("scontrol", "requeue", job_id)


def refusal(script: str) -> str | None:
    """Ask SLURM whether it would take a batch script; nothing is queued.

    Args:
        script: the text, without dependencies.

    Returns:
        None, or what is wrong, with what there is instead.
    """
    done = _run(("sbatch", "--test-only"), script)
    options = {
        key: value.strip("'\" ") for key, value in re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script, re.MULTILINE)
    }
    if done.returncode == 0:
        return _never_starts(options)
    said = "; ".join(line.split("error: ")[-1] for line in done.stderr.splitlines() if line.strip())
    if re.search(r"down, drained or reserved|are busy", said, re.IGNORECASE):
        return None  # it would wait in the queue until the nodes are back
    for pattern, explain in _EXPLANATIONS:
        if re.search(pattern, said, re.IGNORECASE):
            return f"{explain(options)} (sbatch: {said})"
    return f"SLURM would refuse the job: {said}"


def _never_starts(options: dict[str, str]) -> str | None:
    """Refuse what most sites' sbatch takes and then never starts: more than the partition's time limit or nodes."""
    wanted = options.get("partition")
    rows = [line.split() for line in ask("sinfo", "-h", "-o", "%P %l %D").splitlines()]
    allowed = [row for row in rows if (row[0].rstrip("*") in wanted.split(",") if wanted else row[0].endswith("*"))]
    if not allowed:
        return None  # sbatch knows better
    limits = [float("inf") if limit == "infinite" else minutes_of(limit) for _, limit, _ in allowed]
    if int(options["time"]) > max(limits):
        return _too_long(options)
    if int(options["nodes"]) > sum(int(number) for _, _, number in allowed):
        return _too_much(options)
    return None


def _wrong_partition(options: dict[str, str]) -> str:
    names = [line.rstrip("*") for line in ask("sinfo", "-h", "-o", "%P").splitlines()]
    return f"slurm.partition={options.get('partition', '')}: this cluster has {', '.join(sorted(set(names)))}"


def _wrong_account(options: dict[str, str]) -> str:
    mine = _associations("account")
    return f"slurm.account={options.get('account', 'none')}: yours are {', '.join(mine) or 'not known to sacctmgr'}"


def _wrong_qos(options: dict[str, str]) -> str:
    mine = sorted({name for names in _associations("qos") for name in names.split(",")})
    return f"slurm.qos={options.get('qos', 'none')}: yours are {', '.join(mine) or 'not known to sacctmgr'}"


def _associations(field: str) -> list[str]:
    text = ask("sacctmgr", "-n", "-P", "show", "assoc", f"user={getpass.getuser()}", f"format={field}", check=False)
    return sorted({line for line in text.splitlines() if line and " " not in line})


def _wrong_feature(options: dict[str, str]) -> str:
    names = {name for line in ask("sinfo", "-h", "-o", "%f").splitlines() for name in line.split(",")} - {"(null)"}
    return f"slurm.constraint={options.get('constraint', '')}: the nodes' features are {', '.join(sorted(names)) or 'none'}"


def _too_much(options: dict[str, str]) -> str:
    partition = options.get("partition")
    where = ("-p", partition) if partition else ()
    named = ("nodes", "ntasks-per-node", "cpus-per-task", "mem", "gpus-per-node")
    asked = [f"{name}={options[name]}" for name in named if name in options]
    lines = ask("sinfo", "-h", *where, "-o", "%P has %D nodes with %c CPUs, %m MB, GPUs: %G, at most %l").splitlines()
    return f"no nodes for {', '.join(asked)}: {'; '.join(lines)}"


def _too_long(options: dict[str, str]) -> str:
    limits = sorted(set(ask("sinfo", "-h", "-o", "%P %l").splitlines()))
    return f"slurm.time: {options['time']} minutes are more than the partition allows: {', '.join(limits)}"


_EXPLANATIONS = (
    (r"invalid partition", _wrong_partition),
    (r"invalid account|invalid.*association", _wrong_account),
    (r"invalid qos", _wrong_qos),
    (r"invalid feature", _wrong_feature),
    (r"time limit|--time", _too_long),
    (r"node configuration is not available|node count|more processors|too many", _too_much),
)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
