"""Which rank this process is, and how it joins the others: the one file that reads RANK, WORLD_SIZE, SLURM_* and friends.

Everything else is handed a `World` (hnm/engine/ranks.py), or asks here. torch is imported by the functions that need it: the
launcher of ranks and the command line's errors only ask which rank they are.
"""

import os
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from launch.process.cores import thread_variables
from shards.errors import InputError

if TYPE_CHECKING:
    import torch

    from hnm.engine.ranks import World


FIRST_PORT, NUM_PORTS = 20000, 12000  # below 32768, where Linux begins to hand out ports by itself
# rank, size, local rank: what mpirun of Open MPI, and of MPICH and its kin, call them
MPI_NAMES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)


def adopt_launcher() -> None:
    """Let this process know its rank, whoever started it: torchrun and ourselves say RANK, srun and mpirun say it otherwise.

    Raises:
        InputError: what the launcher says is not whole or contradicts itself.
    """
    os.environ.update(variables_of_launcher(os.environ))
    require_ranks(os.environ)


def variables_of_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """Return RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT and OMP_NUM_THREADS of a task of srun or mpirun.

    {} where RANK is there already, or this process is alone. A batch script is alone, though SLURM tells it of a job of several
    tasks: only a step has SLURM_STEP_NUM_TASKS.

    Raises:
        InputError: it is not known where the ranks meet.
    """
    if "RANK" in environment:
        return {}
    if int(environment.get("SLURM_STEP_NUM_TASKS") or 1) > 1 and "SLURM_PROCID" in environment:
        named = {
            "RANK": environment["SLURM_PROCID"],
            "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
            "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        }
        number = environment.get("SLURM_JOB_ID", "0") + environment.get("SLURM_STEP_ID", "")
        port = str(meeting_port(number, num_restarts(environment)))
        address = environment.get("MASTER_ADDR") or _first_host(environment.get("SLURM_STEP_NODELIST", ""))
        named |= {"MASTER_ADDR": address, "MASTER_PORT": environment.get("MASTER_PORT", port)}
        tasks = re.findall(r"(\d+)(?:\(x\d+\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))  # "2(x3),1"
        return named | thread_variables(environment, max(map(int, tasks)), environment.get("SLURM_CPUS_ON_NODE"))
    for rank, size, local_rank in MPI_NAMES:
        if int(environment.get(size) or 1) > 1 and rank in environment:
            local = environment.get(local_rank, environment[rank])
            found = {"RANK": environment[rank], "WORLD_SIZE": environment[size], "LOCAL_RANK": local}
            if environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == environment[size]:  # one machine
                port = str(meeting_port(environment.get("PMIX_NAMESPACE", ""), 0))  # the job's, the same for its ranks
                found["MASTER_ADDR"] = environment.get("MASTER_ADDR", "127.0.0.1")
                found["MASTER_PORT"] = environment.get("MASTER_PORT", port)
            on_node = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") or environment.get("MPI_LOCALNRANKS") or "1"
            return found | thread_variables(environment, int(on_node), environment.get("SLURM_CPUS_ON_NODE"))
    return {}


def require_ranks(environment: Mapping[str, str]) -> None:
    """Refuse variables of ranks that are not whole, or contradict each other, before torch waits for what never comes.

    Raises:
        InputError: naming the variable and the remedy.
    """
    if "RANK" not in environment:
        return
    remedy = "Start ranks with hnm --ranks N, torchrun, srun or mpirun; or unset RANK to run alone"
    numbers = {}
    for name in ("RANK", "WORLD_SIZE", *(["LOCAL_RANK"] if "LOCAL_RANK" in environment else [])):
        if not environment.get(name, "").isdecimal():
            raise InputError(f"{name}={environment.get(name, '')!r} in the environment is no number. {remedy}")
        numbers[name] = int(environment[name])
    if numbers["RANK"] >= numbers["WORLD_SIZE"]:
        raise InputError(f"RANK={numbers['RANK']}, but WORLD_SIZE={numbers['WORLD_SIZE']}: ranks count from 0. {remedy}")
    if "HNM_RENDEZVOUS" in environment:
        return
    for name, example in (("MASTER_ADDR", "the host of rank 0"), ("MASTER_PORT", "a free port there, such as 29500")):
        if not environment.get(name):
            raise InputError(f"{name} is not set, and RANK is: the ranks do not know where to meet. Set it to {example}")
    if not environment["MASTER_PORT"].isdecimal():
        raise InputError(f"MASTER_PORT={environment['MASTER_PORT']!r} in the environment is no port. {remedy}")
    try:
        socket.getaddrinfo(environment["MASTER_ADDR"], int(environment["MASTER_PORT"]))
    except OSError as error:
        raise InputError(
            f"MASTER_ADDR={environment['MASTER_ADDR']}: this machine does not know that host ({error.strerror}). Set it to a "
            "name or address of rank 0's host that every node knows"
        ) from None


def meeting_port(job: str, restarts: int) -> int:
    """Return the port of a job's ranks: the same for all, and most likely another one for other jobs on the node."""
    return FIRST_PORT + (int(re.sub(r"\D", "", job) or 0) + 97 * restarts) % NUM_PORTS


def _first_host(nodelist: str) -> str:
    """Return the first host of SLURM's list, such as "gpu-[07,09]"."""
    ask = ["scontrol", "show", "hostnames", nodelist]  # asks nobody: it only takes the list apart
    try:
        done = subprocess.run(ask, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        raise InputError(
            f"SLURM_STEP_NODELIST={nodelist!r}: cannot tell its first host (scontrol failed). Set MASTER_ADDR to rank 0's host"
        ) from None


def is_rank() -> bool:
    """Return whether torchrun, srun or our own launcher started this process as one of several ranks."""
    return "RANK" in os.environ


def rank_of_process() -> int:
    """Return this process's rank, before or after it joins the others; 0 if it is alone."""
    rank = os.environ.get("RANK", "0")
    return int(rank) if rank.isdecimal() else 0  # else it is told by `require_ranks`


def size_of_process() -> int:
    """Return how many ranks the launcher speaks of; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_of_torchrun() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def num_restarts(environment: Mapping[str, str] | None = None) -> int:
    """Return how often SLURM has put this job back into the queue."""
    return int((os.environ if environment is None else environment).get("SLURM_RESTART_COUNT") or 0)


def join_world(device: str = "auto", timeout_s: float = 1800.0) -> "World":
    """Join the process group that the launcher (torchrun, srun) describes in the environment.

    Every rank must call it once. Without RANK in the environment it returns the world of one process.

    Args:
        device: "cpu", "cuda", or "auto" (CUDA where there is one).
        timeout_s: seconds a collective may wait for the slowest rank.
    """
    import torch.distributed as dist

    from hnm.engine.ranks import World

    require_ranks(os.environ)
    chosen = choose_device(device)
    if not is_rank():
        return World(0, 1, 0, chosen)
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    ours: dict[str, Any] = {}
    if (meeting_file := os.environ.get("HNM_RENDEZVOUS")) is not None:  # launch/process/local.py
        ours = {
            "init_method": meeting_file,
            "rank": rank_of_process(),
            "world_size": size_of_process(),
        }
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s), **ours)
    except dist.DistNetworkError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise InputError(
            f"the ranks do not meet at MASTER_ADDR:MASTER_PORT = {where} ({_short(error)}). Is the port taken, or the host not "
            "rank 0's? Set another MASTER_PORT for all ranks"
        ) from error
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")), chosen)


def choose_device(device: str = "auto") -> "torch.device":
    """Return this process's device, which is torch's current one from now on; on a CPU nothing touches CUDA.

    Args:
        device: "cpu", "cuda", or "auto" (CUDA where there is one).

    Raises:
        InputError: it is "cuda", and there is no GPU.
    """
    import torch

    if device == "cpu" or (not (is_there := torch.cuda.is_available()) and device == "auto"):
        return torch.device("cpu")
    if not is_there:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise InputError(
            f"device is cuda, but torch {torch.__version__} sees no GPU on {socket.gethostname()}"
            + (f" (CUDA_VISIBLE_DEVICES={visible!r})" if visible is not None else "")
            + ". Set device=cpu or device=auto, ask the scheduler for a GPU, or install a torch that is built for it"
        )
    # where SLURM shows each rank only its own GPU, that one is number 0
    index = int(os.environ.get("LOCAL_RANK", "0")) % max(1, torch.cuda.device_count())
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def num_starts() -> int:
    """Return how often torchrun and SLURM have started this very job before."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) + num_restarts()


def is_started_again() -> bool:
    """Return whether this very job was started before: what a command does once must not be repeated."""
    return num_starts() > 0


def is_under_scheduler() -> bool:
    """Return whether this process is of a batch system's job: SLURM, PBS, LSF or Grid Engine."""
    return any(name in os.environ for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "SGE_TASK_ID"))


def slurm_job() -> dict[str, Any]:
    """Return number, nodes and restarts of the SLURM job that this process belongs to, {} outside of one."""
    if "SLURM_JOB_ID" not in os.environ:
        return {}
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    return {"job": os.environ["SLURM_JOB_ID"], "nodes": nodes, "restarts": num_restarts()}


def is_joined(world: "World") -> bool:
    """Return whether this rank is still with the others: it has not left them, or is alone anyhow."""
    import torch.distributed as dist

    return world.size == 1 or dist.is_initialized()


def leave_world(world: "World") -> None:
    """Leave the process group, if this rank is still in it. Every rank must call it."""
    import torch.distributed as dist

    if is_joined(world) and dist.is_initialized():
        dist.destroy_process_group()


class RankLostError(InputError):
    """Another rank is gone or does not answer. Each rank that waited for it says so."""


@contextmanager
def told_when_lost(log_folder: Path) -> Iterator[None]:
    """Turn the error of a collective that another rank has left, or has not come to, into a message.

    Raises:
        RankLostError: naming what every rank last reported.
    """
    try:
        yield
    except RuntimeError as error:  # gloo raises it; NCCL's is a DistBackendError, which is one
        if not is_of_collective(error):
            raise
        from hnm.run.heartbeat import last_words, read_beats

        raise RankLostError(
            f"another rank is gone or did not answer in time ({_short(error)}). Last reports: "
            f"{last_words(read_beats(log_folder), time())}. What is saved stays; the same command goes on there"
        ) from error


def _short(error: Exception) -> str:
    """Return what an error of the exchange says, without the C++ source line."""
    return re.sub(r"^\[\S+\] ", "", str(error).strip().splitlines()[0]).split(". ")[0]


def is_of_collective(error: RuntimeError) -> bool:
    """Return whether an error comes from the exchange between ranks."""
    import torch.distributed as dist

    if isinstance(error, dist.DistError):
        return True
    signs = ("gloo", "Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe")
    return any(sign in str(error) for sign in signs)

