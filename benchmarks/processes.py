"""Start this machine's ranks for a measurement: fresh processes, one thread each, results as JSON."""

import json
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from hnm.engine.ranks import World
from launch.process.distributed import join_world, leave_world

Measure = Callable[..., dict[str, Any]]


def on_ranks(size: int, device: str, function: Measure, *arguments: Any) -> list[dict[str, Any]]:
    """Return [function(world, *arguments) of each rank]; `function` is a top-level function and returns JSON's types."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        mp.spawn(_rank_main, (size, port, folder, device, function, arguments), nprocs=size)
        return [json.loads((Path(folder) / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(size)]


def _rank_main(
    rank: int, size: int, port: int, folder: str, device: str, function: Measure, arguments: tuple[Any, ...]
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    world: World = join_world(device)
    result = function(world, *arguments)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(result), encoding="utf-8")
    leave_world(world)


def memory_mb(entry: str) -> float:
    """Return this process's VmRSS (now) or VmHWM (highest so far), MB (10^6 bytes)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) * 1024 / 1e6
