"""How long a rank waits for the others, and what it says when one does not answer."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from time import time

import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field
from torch.distributed.distributed_c10d import _set_pg_timeout  # the only way; its name has an underscore since 2.2

from launch.distributed import World
from launch.heartbeat import last_words, read_beats
from shards.errors import InputError


class TimeoutConfig(BaseModel):
    """How long a collective may wait for the slowest rank before the run ends with a message."""

    model_config = ConfigDict(extra="forbid")

    start_s: float = Field(
        1800.0, gt=0, description="seconds, outside of training steps and until the first: opening, compiling, mining"
    )
    step_s: float = Field(300.0, gt=0, description="seconds, from the first training step of a phase to its last")


class RankLostError(InputError):
    """Another rank is gone or does not answer. Each rank that waited for it says so."""


def wait_at_most(seconds: float, world: World) -> None:
    """Let this rank's collectives wait for `seconds` from now on."""
    if world.size > 1:
        _set_pg_timeout(timedelta(seconds=seconds))


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
        why = re.sub(r"^\[\S+\] ", "", str(error).strip().splitlines()[0]).split(". ")[0]  # without gloo's source line
        raise RankLostError(
            f"another rank is gone or did not answer in time ({why}). Last reports: "
            f"{last_words(read_beats(log_folder), time())}. What is saved stays; the same command goes on there"
        ) from error


def is_of_collective(error: RuntimeError) -> bool:
    """Return whether an error comes from the exchange between ranks."""
    if isinstance(error, dist.DistError):
        return True
    signs = ("gloo", "Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe")
    return any(sign in str(error) for sign in signs)
