"""Real gloo ranks for tests: `on_ranks(n, function, ...)` runs a top-level function on n processes.

They are forked from a server that has imported torch and our code once: a fresh interpreter would take each of them seconds.
"""

import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from hnm.engine.ranks import World, single_world
from launch.process.distributed import join_world, leave_world

TIMEOUT_S = 300.0
# with the first optimizer or DDP torch imports torch._dynamo and with it SymPy: 2.4 s of each process
IMPORTED_ONCE = [
    *("torch.distributed", "torch._dynamo", "torch.nn.parallel.distributed", "deepspeed"),
    *("hnm.evidence.evaluate", "hnm.rounds", "tests.hnm.worlds", "tests.tiny"),
]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _rank_main(
    rank: int,
    size: int,
    port: int,
    folder: str,
    environment: dict[str, str],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ |= environment | {  # the server has that of its start
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    world = join_world("cpu", timeout_s=60)
    torch.save(function(world, *arguments), Path(folder) / f"{rank}.pt")
    leave_world(world)


def on_ranks(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return [function(world, *arguments) of each rank]; one rank runs in this process, as users' single runs do."""
    if size == 1:
        return [function(single_world(), *arguments)]
    return _on_processes(size, function, *arguments)


def on_new_process(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return [function(world, *arguments)] of one rank in a process of its own, for what a process does only once."""
    return _on_processes(1, function, *arguments)


def _on_processes(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.set_forkserver_preload(IMPORTED_ONCE)
        given = (size, _free_port(), folder, dict(os.environ), function, arguments)
        context = mp.start_processes(_rank_main, given, nprocs=size, join=False, start_method="forkserver")
        try:
            deadline = time.monotonic() + TIMEOUT_S
            while not context.join(timeout=1.0):  # true when all have ended; raises when one has failed
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{size} ranks did not end within {TIMEOUT_S} s")
        finally:
            for process in context.processes:
                if process.is_alive():
                    process.kill()
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(size)]


def world_of(rank: int, size: int) -> World:
    """Return a world without a process group, for functions that only compute shares."""
    return World(rank, size, rank, torch.device("cpu"))
