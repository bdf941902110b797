"""Memory and CPU time of processes while they work, by phase: sampled from outside, so that what is measured is not slowed.

Private is anonymous memory (RssAnon): arrays, the heap. Shared are pages of mapped files (RssFile): the patch table, mined
arrays, features, libraries; processes of a node share them, and the system may drop and read them again.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

EVERY_S = 0.05


class Sample(NamedTuple):
    """What one rank had at one time: seconds since 1970, bytes, seconds of CPU since its start."""

    time: float
    rank: int
    private: int
    shared: int
    cpu: float


def sample(pids: Callable[[], dict[int, int]], is_done: Callable[[], bool]) -> list[Sample]:
    """Return samples of processes, taken every 50 ms until `is_done` says so.

    Args:
        pids: returns the process of each rank that is there now.
    """
    samples = []
    while not is_done():
        for rank, pid in pids().items():
            try:
                lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
                ticks = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
            except (FileNotFoundError, ProcessLookupError):  # it has ended
                continue
            found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}
            if found:  # a process that is ending has none
                cpu = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
                samples.append(Sample(time.time(), rank, found["RssAnon"], found["RssFile"], cpu))
        time.sleep(EVERY_S)
    return samples


def by_phase(samples: Sequence[Sample], begins: Sequence[tuple[float, str]]) -> dict[str, dict[str, Any]]:
    """Return by phase the highest private memory of each rank, the highest shared one of any (MB), and all ranks' CPU seconds.

    Args:
        begins: when each phase began, in order, with its name; phases of one name are taken together.
    """
    names: dict[str, dict[str, Any]] = {}
    stops = [*(at for at, _ in begins[1:]), float("inf")]
    for (start, name), stop in zip(begins, stops, strict=True):
        phase = names.setdefault(name, {"private_mb": {}, "shared_mb": 0.0, "cpu_seconds": 0.0})
        for rank in {one.rank for one in samples}:
            own = [one for one in samples if one.rank == rank and start <= one.time < stop]
            if own:
                private = phase["private_mb"]
                private[str(rank)] = max(private.get(str(rank), 0.0), round(max(one.private for one in own) / 1e6, 1))
                phase["shared_mb"] = max(phase["shared_mb"], round(max(one.shared for one in own) / 1e6, 1))
                phase["cpu_seconds"] = round(phase["cpu_seconds"] + own[-1].cpu - own[0].cpu, 2)
    return names


def highest(phases: dict[str, dict[str, Any]]) -> float:
    """Return the highest private memory of any rank in any phase, MB."""
    return max(mb for phase in phases.values() for mb in phase["private_mb"].values())
