"""What a cluster gives to each rank: cores, clock, network, shared folder, reading. Measured, in seconds and bytes.

    every rank: facts of its own ──▶ clocks, all-reduce, all-gather ──▶ write, rename, see all ranks' files ──▶ read shards
                     └──────────────── a line of JSON each, as int8 tensors ────────────────▶ rank 0
"""

import json
import os
import resource
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from hnm.engine.ranks import World, barrier, broadcast_array, gather_any_to_main, main_says, max_over_ranks
from hnm.installed import commit_of_code
from launch.process.cores import usable_cores
from launch.process.disks import file_system_of
from shards.files import whole_file

Facts = dict[str, Any]
PINGS = 8  # of which the fastest counts
NUM_BYTES = 64 << 20  # of an all-reduce, and of an all-gather's result: a fine-tuning step of a small encoder has as many
REPEATS = 3
FILE_BYTES = 1 << 20
SEE_WITHIN_S = 60.0
LOOK_EVERY_S = 0.02
READ_BYTES, READ_S = 512 << 20, 3.0  # at most, by each rank
FEW_BYTES, FEW_S = 8 << 20, 0.5  # what is read from less, and in less time, is no rate


def facts_of_rank(world: World, folder: Path) -> Facts:
    """Return what this rank has: machine, device, cores, limits, versions, and the kind of disk that holds `folder`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gpu = torch.cuda.get_device_properties(world.device) if world.device.type == "cuda" else None
    return {
        "rank": world.rank, "host": socket.gethostname(), "local_rank": world.local_rank, "device": str(world.device),
        "device_name": f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" if gpu else "CPU",
        "cores": usable_cores(), "machine_cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "open_files": soft, "open_files_hard": hard, "disk": file_system_of(folder),
        "versions": f"hnm {commit_of_code() or 'without a commit'}, torch {torch.__version__}",
    }  # fmt: skip


def gather_facts(facts: Facts, world: World) -> list[Facts]:
    """Return every rank's facts, by rank, on rank 0; [] elsewhere. Every rank must call it."""
    line = np.frombuffer((json.dumps(facts) + "\n").encode(), np.int8).copy()
    lines = gather_any_to_main(line, world)
    return [] if lines is None else [json.loads(text) for text in lines.tobytes().decode().splitlines()]


def clock_offsets(world: World) -> list[float]:
    """Return how far each rank's clock is before rank 0's, s, on rank 0; [] elsewhere. Every rank must call it.

    A rank's answer was written half a round trip before it arrives; the fastest of a few round trips counts.
    """
    offsets = [0.0]
    if not world.is_main:
        for _ in range(PINGS):
            dist.recv(torch.empty(1, dtype=torch.float64), src=0)
            dist.send(torch.tensor([time.time()], dtype=torch.float64), dst=0)
        return []
    for rank in range(1, world.size):
        answers = []
        for _ in range(PINGS):
            theirs, asked = torch.empty(1, dtype=torch.float64), time.time()
            dist.send(torch.tensor([asked], dtype=torch.float64), dst=rank)
            dist.recv(theirs, src=rank)
            arrived = time.time()
            answers.append((arrived - asked, float(theirs) - (asked + arrived) / 2))
        offsets.append(min(answers)[1])
    return offsets


def network(world: World, device: torch.device) -> Facts:
    """Measure the exchange of tensors on a device: gloo for the CPU's, NCCL for a GPU's. Every rank must call it.

    Returns:
        latency_s of an all-reduce of one number, and bytes per second over the slowest link, as NVIDIA's nccl-tests count
        them (busbw): all-reduce 2 (n - 1) / n of the bytes a rank has, all-gather (n - 1) / n of those it ends up with.
    """
    n = world.size
    one = torch.zeros(1, device=device)
    many = torch.zeros(NUM_BYTES // 4, device=device)
    part = torch.zeros(NUM_BYTES // 4 // n, device=device)
    parts = [torch.empty_like(part) for _ in range(n)]
    reduce_s = _seconds(lambda: dist.all_reduce(many), world, device)
    gather_s = _seconds(lambda: dist.all_gather(parts, part), world, device)
    return {
        "backend": "nccl" if device.type == "cuda" else "gloo",
        "latency_s": _seconds(lambda: dist.all_reduce(one), world, device),
        "all_reduce_bytes_per_s": 2 * (n - 1) / n * NUM_BYTES / reduce_s,
        "all_gather_bytes_per_s": (n - 1) / n * NUM_BYTES / gather_s,
    }


def _seconds(exchange: Callable[[], Any], world: World, device: torch.device) -> float:
    """Return the slowest rank's seconds of the fastest of a few exchanges, after one that opens the connections."""
    exchange()
    times = []
    for _ in range(REPEATS):
        barrier(world)
        begin = time.perf_counter()
        exchange()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(max_over_ranks(int((time.perf_counter() - begin) * 1e9), world) / 1e9)
    return min(times)


def shared_folder(folder: Path, world: World) -> Facts:
    """Let every rank write a file and rename it, and see those of all others. Every rank must call it.

    Each looks for the others' files before they are there, as a program would: NFS may remember a look in vain.

    Returns:
        problem: why this rank cannot write there, None if it can. write_s: to write 1 MiB, with fsync and rename.
        listed_s: until a listing of the folder shows all ranks' files, after the last was renamed; named_s: until they are
        found by name; None: not within `SEE_WITHIN_S`, or a rank could not write. links: are there hard links, of which
        claims are made?
    """
    number = broadcast_array(np.array([time.time_ns()]) if world.is_main else None, world)
    place = folder / f".hnm-doctor-{int(number[0])}"
    paths = [place / f"rank-{rank}" for rank in range(world.size)]
    for path in paths:
        path.exists()
    barrier(world)
    begin, problem = time.perf_counter(), None
    try:
        with whole_file(paths[world.rank]) as temporary:
            temporary.write_bytes(b"\0" * FILE_BYTES)
    except OSError as error:
        problem = error.strerror or str(error)
    write_s = time.perf_counter() - begin
    barrier(world)
    seen: Facts = {"listed_s": None, "named_s": None, "links": False}
    if not max_over_ranks(int(problem is not None), world):
        seen = _see(place, paths) | {"links": _has_links(paths[world.rank])}
    barrier(world)
    shutil.rmtree(place, ignore_errors=True)  # each its own view: another rank's removal is no error
    return {"problem": problem, "write_s": write_s, **seen}


def _see(place: Path, paths: Sequence[Path]) -> Facts:
    begin, listed, named = time.perf_counter(), None, None
    names = {path.name for path in paths}
    while time.perf_counter() - begin < SEE_WITHIN_S and (listed is None or named is None):
        if named is None and all(path.exists() for path in paths):
            named = time.perf_counter() - begin
        if listed is None and names <= set(os.listdir(place)):
            listed = time.perf_counter() - begin
        time.sleep(LOOK_EVERY_S)
    return {"listed_s": listed, "named_s": named}


def _has_links(path: Path) -> bool:
    try:
        os.link(path, path.with_name(f"{path.name}.link"))
    except OSError:
        return False
    return True


def read_rate(shards: Sequence[Path], world: World) -> float | None:
    """Return the bytes per second at which this rank reads its share of some files, all ranks at once; None: it is too small.

    What the page cache holds is dropped first, as far as this process may. Every rank must call it.
    """
    own = shards[world.rank :: world.size]
    for path in own:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    barrier(world)
    begin, nbytes = time.perf_counter(), 0
    for path in own:
        with open(path, "rb") as file:
            while chunk := file.read(min(8 << 20, READ_BYTES - nbytes)):
                nbytes += len(chunk)
                if time.perf_counter() - begin > READ_S:
                    break
        if nbytes >= READ_BYTES or time.perf_counter() - begin > READ_S:
            break
    seconds = time.perf_counter() - begin
    return nbytes / seconds if nbytes >= FEW_BYTES or seconds > FEW_S else None


def share_a_device(ranks: Sequence[Facts], world: World) -> bool:
    """Return on every rank whether two ranks have one GPU, which NCCL refuses. Every rank must call it.

    Args:
        ranks: as by `gather_facts`.
    """
    places = [(facts["host"], facts["device"]) for facts in ranks if facts["device"] != "cpu"]
    return main_says(lambda: len(set(places)) < len(places), world)
