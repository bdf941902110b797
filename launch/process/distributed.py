"""Which rank this process is, and how it joins the others: the one file that reads RANK, WORLD_SIZE, SLURM_* and friends.

Everything else is handed a `World` (hnm/engine/ranks.py), or asks here. torch is imported by the functions that need it: the
launcher of ranks and the command line's errors only ask which rank they are.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from shards.errors import InputError

if TYPE_CHECKING:
    import torch

    from hnm.engine.ranks import World


def is_rank() -> bool:
    """Return whether torchrun, srun or our own launcher started this process as one of several ranks."""
    return "RANK" in os.environ


def rank_of_process() -> int:
    """Return this process's rank, before or after it joins the others; 0 if it is alone."""
    return int(os.environ.get("RANK", "0"))


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
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s), **ours)
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")), chosen)


def choose_device(device: str = "auto") -> "torch.device":
    """Return this process's device, which is torch's current one from now on.

    Args:
        device: "cpu", "cuda", or "auto" (CUDA where there is one).
    """
    import torch

    use_cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    if not use_cuda:
        return torch.device("cpu")
    # where SLURM shows each rank only its own GPU, that one is number 0
    index = int(os.environ.get("LOCAL_RANK", "0")) % max(1, torch.cuda.device_count())
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def is_started_again() -> bool:
    """Return whether torchrun or SLURM has started this very job before: what a command does once must not be repeated."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0 or num_restarts() > 0


def slurm_job() -> dict[str, Any]:
    """Return number, nodes and restarts of the SLURM job that this process belongs to, {} outside of one."""
    if "SLURM_JOB_ID" not in os.environ:
        return {}
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    return {"job": os.environ["SLURM_JOB_ID"], "nodes": nodes, "restarts": num_restarts()}


def leave_world(world: "World") -> None:
    """Leave the process group. Every rank must call it."""
    import torch.distributed as dist

    if world.size > 1 or dist.is_initialized():
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

        why = re.sub(r"^\[\S+\] ", "", str(error).strip().splitlines()[0]).split(". ")[0]  # without gloo's source line
        raise RankLostError(
            f"another rank is gone or did not answer in time ({why}). Last reports: "
            f"{last_words(read_beats(log_folder), time())}. What is saved stays; the same command goes on there"
        ) from error


def is_of_collective(error: RuntimeError) -> bool:
    """Return whether an error comes from the exchange between ranks."""
    import torch.distributed as dist

    if isinstance(error, dist.DistError):
        return True
    signs = ("gloo", "Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe")
    return any(sign in str(error) for sign in signs)

