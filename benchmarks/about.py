"""What every result says of itself: the command, the machine, how busy it was, and the versions."""

import os
import platform
import sys
from datetime import date
from importlib.metadata import version
from typing import Any


def about(name: str, quick: bool, packages: tuple[str, ...]) -> dict[str, Any]:
    """Return the head of a result.

    Args:
        name: the script's.
        quick: whether it ran on less.
        packages: those whose versions matter.
    """
    load = [round(value, 2) for value in os.getloadavg()]
    return {
        "benchmark": name,
        "quick": quick,
        "date": date.today().isoformat(),
        "command": " ".join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {_memory_gb():.0f} GB",
        "load_average": dict(zip(("1_min", "5_min", "15_min"), load, strict=True)),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in packages}},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
