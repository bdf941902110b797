"""A `World` says who this process is among the ranks; the collectives are functions of it.

Decisions (scores, pseudo labels, weights) travel as tensors over a CPU (gloo) group; gradients travel over NCCL on GPUs
and gloo on CPUs. With one process there is no process group at all, and every function here returns its input. Who joins
the ranks, and reads the environment, is launch/process/distributed.py.
"""

import os
import socket
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field
from torch.distributed.distributed_c10d import _set_pg_timeout  # the only way; its name has an underscore since 2.2

from shards.errors import InputError

SEEN_WITHIN_S = 120.0  # NFS may keep a folder's listing for a minute (acdirmax)
CHUNK_BYTES = 1 << 26  # 64 MiB a message: bounds the buffers gloo holds beside the arrays themselves


@dataclass(frozen=True)
class World:
    """Who this process is among the ranks.

    Attributes:
        rank: 0 .. size - 1 over all nodes.
        size: number of ranks.
        local_rank: 0 .. on this node; the index of this rank's GPU.
        device: where this rank's models live.
    """

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on rank 0, the coordinator, which alone writes shared files and talks to MLflow."""
        return self.rank == 0


def single_world(device: str = "cpu") -> World:
    """Return the world of one process without a process group."""
    return World(0, 1, 0, torch.device(device))


def barrier(world: World) -> None:
    """Wait until every rank is here. Every rank must call it."""
    if world.size > 1:
        dist.all_reduce(torch.zeros(1))  # on the gloo group: a dist.barrier on NCCL would need a GPU tensor


def sum_over_ranks(tensor: torch.Tensor, world: World) -> torch.Tensor:
    """Return the sum of `tensor` over the ranks, without gradient. Every rank must call it with the same shape."""
    if world.size == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def max_over_ranks(value: int, world: World) -> int:
    """Return the largest of the ranks' values. Every rank must call it."""
    values = torch.zeros(world.size, dtype=torch.int64)
    values[world.rank] = value
    return int(sum_over_ranks(values, world).max())


class _GatherRows(torch.autograd.Function):
    """All-gather of row blocks whose backward sums the gradients of all ranks (each rank's loss uses every row)."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor, sizes: list[int], rank: int) -> torch.Tensor:  # type: ignore[no-untyped-def]
        ctx.sizes, ctx.rank = sizes, rank
        padded = rows.new_zeros((max(sizes), *rows.shape[1:]))  # gloo gathers equal shapes only
        padded[: len(rows)] = rows
        blocks = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(blocks, padded)
        return torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)])

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):  # type: ignore[no-untyped-def]
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.split(ctx.sizes)[ctx.rank], None, None


def gather_rows(rows: torch.Tensor, sizes: list[int], world: World) -> torch.Tensor:
    """Return the rows of all ranks, in rank order, with gradient. Every rank must call it, and its backward.

    Args:
        rows: (sizes[rank], ...) this rank's rows.
        sizes: number of rows of every rank, the same list on every rank.

    Returns:
        (sum(sizes), ...). Its gradient is the sum of the gradients on all ranks.
    """
    if world.size == 1:
        return rows
    return _GatherRows.apply(rows, sizes, world.rank)


def gather_to_main(part: np.ndarray, sizes: list[int], out: np.ndarray | None, world: World) -> None:
    """Collect variable-length slices in rank order into rank 0's preallocated array. Every rank must call it.

    Slices are sent in chunks of at most 64 MiB, so beside `out` (which may be a memory map) rank 0 holds one chunk.

    Args:
        part: (sizes[rank],) this rank's slice, contiguous.
        sizes: slice lengths of all ranks, the same list on every rank.
        out: (sum(sizes),) of part's dtype on rank 0, None elsewhere.
    """
    rows = max(1, CHUNK_BYTES // part.dtype.itemsize)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    if not world.is_main:
        for begin in range(0, len(part), rows):
            dist.send(torch.from_numpy(np.ascontiguousarray(part[begin : begin + rows])), dst=0)
        return
    assert out is not None
    out[: sizes[0]] = part
    for rank in range(1, world.size):
        for begin in range(int(starts[rank]), int(starts[rank + 1]), rows):
            chunk = torch.empty(min(rows, int(starts[rank + 1]) - begin), dtype=torch.from_numpy(part[:0]).dtype)
            dist.recv(chunk, src=rank)
            out[begin : begin + len(chunk)] = chunk.numpy()


def gather_any_to_main(part: np.ndarray, world: World) -> np.ndarray | None:
    """Return the ranks' one-dimensional arrays, of any lengths, one after another on rank 0; None elsewhere.

    Every rank must call it, with the same dtype.
    """
    sizes = torch.zeros(world.size, dtype=torch.int64)
    sizes[world.rank] = len(part)
    sizes = sum_over_ranks(sizes, world)
    out = np.empty(int(sizes.sum()), part.dtype) if world.is_main else None
    gather_to_main(part, sizes.tolist(), out, world)
    return out


def map_array(path: Path, array: np.ndarray | None, world: World) -> np.ndarray:
    """Return rank 0's one-dimensional array on every rank: a memory map of its file, or else what is broadcast.

    Every rank must call it. The ranks of a node share the pages of a map, which the system may drop and read again.

    Args:
        path: the .npy file, visible to all ranks.
        array: on rank 0 the array; an `np.memmap` says that the file holds just it. Ignored elsewhere.

    Raises:
        InputError: this rank's machine does not see the file as rank 0 does within `SEEN_WITHIN_S`.
    """
    if world.size == 1:
        assert array is not None
        return np.asarray(array)
    told = np.zeros(2, np.int64)
    if isinstance(array, np.memmap):
        told[:] = 1, zlib.crc32(array)  # type: ignore[arg-type]
    is_map, checksum = broadcast_array(told, world).tolist()
    if not is_map:
        return broadcast_array(array, world)
    return np.asarray(array) if array is not None and world.is_main else _map_as_told(path, checksum, world)


def _map_as_told(path: Path, checksum: int, world: World) -> np.ndarray:
    """Return the memory map of a file, once it is the one that rank 0 told: a file of that name may have been there before."""
    deadline = time.monotonic() + SEEN_WITHIN_S
    while True:
        with suppress(OSError, ValueError):  # not whole yet
            array = np.load(seen(path, world), mmap_mode="r")
            if zlib.crc32(array) == checksum:
                return np.asarray(array)
        if time.monotonic() > deadline:
            raise InputError(
                f"{path}: rank {world.rank} on {socket.gethostname()} does not see what rank 0 wrote there, "
                f"{SEEN_WITHIN_S:.0f} s after. All nodes must see the run directory: put it on a file system that they share"
            )
        time.sleep(0.2)


def broadcast_array(array: np.ndarray | None, world: World) -> np.ndarray:
    """Return rank 0's one-dimensional array on every rank, sent in chunks. Every rank must call it.

    Args:
        array: the array on rank 0; ignored elsewhere. Its dtype must be one that torch has.
    """
    if world.size == 1:
        assert array is not None
        return array
    header = torch.zeros(2, dtype=torch.int64)
    if world.is_main:
        assert array is not None
        header[0], header[1] = len(array), _DTYPES.index(array.dtype.str)
    dist.broadcast(header, src=0)
    length, dtype = int(header[0]), np.dtype(_DTYPES[int(header[1])])
    result = array if array is not None and world.is_main else np.empty(length, dtype)
    rows = max(1, CHUNK_BYTES // dtype.itemsize)
    for begin in range(0, length, rows):
        chunk = result[begin : begin + rows]
        # rank 0 sends a copy of the chunk: its array may be a read-only memory map
        dist.broadcast(torch.from_numpy(chunk.copy() if world.is_main else chunk), src=0)
    return result


_DTYPES = ["|i1", "<i4", "<i8", "<f2", "<f4", "<f8"]  # what travels; the index goes over the wire


def main_says(ask: Callable[[], bool], world: World) -> bool:
    """Return rank 0's answer on every rank. Every rank must call it; rank 0 alone asks.

    A node that looks for a file in vain may remember for half a minute that it is not there (NFS), though another node has
    written it meanwhile: so the others do not look.
    """
    if world.size == 1:
        return ask()
    answer = torch.tensor([int(ask()) if world.is_main else 0])
    dist.broadcast(answer, src=0)
    return bool(answer)


def seen(path: Path, world: World) -> Path:
    """Return `path`, which another rank has written, once this rank's machine sees it.

    Raises:
        InputError: it is not seen within `SEEN_WITHIN_S`.
    """
    wait_until_seen(path.parent, [path.name], world)
    return path


def wait_until_seen(folder: Path, names: Iterable[str], world: World) -> None:
    """Wait until this rank's machine sees files that other ranks have written.

    It lists the folder, which makes a network file system ask the server anew, and does not look for the files one by one:
    a look in vain would be remembered.

    Raises:
        InputError: some are not there within `SEEN_WITHIN_S`.
    """
    if world.size == 1:
        return
    wanted, deadline = set(names), time.monotonic() + SEEN_WITHIN_S
    while missing := wanted - _listed(folder):
        if time.monotonic() > deadline:
            raise InputError(
                f"{folder}: rank {world.rank} on {socket.gethostname()} does not see {min(missing)} "
                f"({len(missing)} of {len(wanted)} files) {SEEN_WITHIN_S:.0f} s after another rank wrote it. All nodes must "
                "see the run directory: put it on a file system that they share"
            )
        time.sleep(0.2)


def _listed(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:  # the folder is new, too
        return set()


class TimeoutConfig(BaseModel):
    """How long a collective may wait for the slowest rank before the run ends with a message."""

    model_config = ConfigDict(extra="forbid")

    start_s: float = Field(
        1800.0, gt=0, description="seconds, outside of training steps and until the first: opening, compiling, mining"
    )
    step_s: float = Field(300.0, gt=0, description="seconds, from the first training step of a phase to its last")


def wait_at_most(seconds: float, world: World) -> None:
    """Let this rank's collectives wait for `seconds` from now on."""
    if world.size > 1:
        _set_pg_timeout(timedelta(seconds=seconds))

