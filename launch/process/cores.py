"""How many CPU cores this process may use, of its job or container and not the machine's, and how many threads a rank starts."""

import os
from collections.abc import Mapping
from math import ceil
from pathlib import Path

CGROUP = Path("/proc/self/cgroup")
MOUNTS = Path("/proc/self/mountinfo")


def usable_cores() -> int:
    """Return the cores that this process may use, at least 1: of those it may run on, as many as its cgroup gets time on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = cgroup_cores(CGROUP, MOUNTS)
    return cores if limit is None else max(1, min(cores, limit))


def cgroup_cores(own: Path, mounts: Path) -> int | None:
    """Return the cores that the process's cgroup and those above it get time on (cgroup v2, cpu.max), rounded up.

    Args:
        own: as /proc/self/cgroup: "0::/user.slice/job".
        mounts: as /proc/self/mountinfo.

    Returns:
        None: there is no limit, or no cgroup v2.
    """
    if not own.is_file() or not mounts.is_file():
        return None
    lines = [line.split(" - ") for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    roots = [Path(before.split()[4]) for before, after in lines if after.split()[0] == "cgroup2"]
    names = [line.removeprefix("0::/") for line in own.read_text(encoding="utf-8").splitlines() if line.startswith("0::/")]
    if not roots or not names:
        return None
    leaf, limits = roots[0] / names[0], []
    for folder in [leaf, *leaf.parents][: len(leaf.parts) - len(roots[0].parts) + 1]:
        quota, period = _cpu_max(folder / "cpu.max")
        if quota is not None:
            limits.append(ceil(quota / period))
    return min(limits, default=None)


def _cpu_max(path: Path) -> tuple[int | None, int]:
    """Return quota, None for none, and period, microseconds, of a file such as "150000 100000" or "max 100000"."""
    try:
        quota, period = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):  # the root has none; controllers that are switched off
        return None, 1
    return (None if quota == "max" else int(quota)), int(period)


def threads_of_rank(usable: int, on_node: int, ranks: int) -> int:
    """Return how many threads each of a node's ranks may start.

    Args:
        usable: cores that one rank may use.
        on_node: cores that they all have together.
        ranks: how many of them are on the node.
    """
    usable = min(usable, on_node)
    return usable if usable * ranks <= on_node else max(1, usable // ranks)  # its own ones, or a share of those of all


def thread_variables(environment: Mapping[str, str], ranks_on_node: int, cores_on_node: str | None) -> dict[str, str]:
    """Return OMP_NUM_THREADS of a rank, unless it is set: by default each starts a thread for every core that it sees."""
    if "OMP_NUM_THREADS" in environment:
        return {}
    on_node = int(cores_on_node or os.cpu_count() or 1)
    return {"OMP_NUM_THREADS": str(threads_of_rank(usable_cores(), on_node, ranks_on_node))}
