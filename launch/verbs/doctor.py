"""`hnm doctor`: what this machine has, and what is missing, in lines that can be pasted into a question.

    setup.cfg ──pip install──▶ metadata of the package hnm: what is needed, pins, extras ── compared with what is installed
"""

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

from launch.process.distributed import is_rank, rank_of_process, size_of_process

LOW_DISK_GB = 10.0


def run(encoder: str | None = None) -> int:
    """Print the report; the exit code is 1 when something needed is missing.

    Args:
        encoder: name of an encoder whose weights are to be looked for, too.
    """
    print(f"python      {sys.version.split()[0]} on {platform.platform()}")
    missing = list(_packages())
    if version_of("torch") is not None:
        for line in _devices():
            print(line)
    for line in _ranks():
        print(line)
    missing += list(_disk())
    if encoder is not None:
        missing += list(_encoder(encoder))
    for line in missing:
        print(f"missing     {line}")
    if not missing:
        print("nothing is missing. Try: hnm demo")
    return int(bool(missing))


def needed(package: str, extra: str = "") -> list[Requirement]:
    """Return what an installed package needs on this machine, without an extra; what that needs besides, with one.

    Raises:
        PackageNotFoundError: the package is not installed.
    """
    of_all = [Requirement(line) for line in metadata.requires(package) or []]
    core = [it for it in of_all if it.marker is None or it.marker.evaluate({"extra": ""})]
    return [it for it in of_all if it not in core and it.marker and it.marker.evaluate({"extra": extra})] if extra else core


def version_of(package: str) -> str | None:
    """Return the installed version of a package, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def lacking(requirements: list[Requirement]) -> list[str]:
    """Return the names of the packages that are not installed, with what their own extras ask for."""
    names = []
    for it in requirements:
        if version_of(it.name) is None:
            names.append(it.name)
        else:
            names += [name for extra in sorted(it.extras) for name in lacking(needed(it.name, extra))]
    return names


def _packages() -> Iterator[str]:
    """Print what the package's metadata lists; yield a line for each package that is needed and missing."""
    try:
        core = needed("hnm")
    except metadata.PackageNotFoundError:
        yield "hnm is not installed here, only its files are: what it needs is not known. In the checkout: pip install -e ."
        return
    for it in core:
        version = version_of(it.name)
        differs = version is not None and not it.specifier.contains(version, prereleases=True)
        print(f"{it.name:<11} {version or 'MISSING'}" + (f" (seen to work: {it.specifier})" if differs else ""))
        if version is None:
            yield f"{it.name}: pip install '{it.name}{it.specifier}'"
    for extra in metadata.metadata("hnm").get_all("Provides-Extra") or []:
        names = lacking(needed("hnm", extra))
        said = f"not there: {', '.join(names)}. If you need it: pip install 'hnm[{extra}]'" if names else "there"
        print(f"[{extra}]".ljust(12) + said)


def _devices() -> Iterator[str]:
    torch = importlib.import_module("torch")
    yield f"cpu         {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads a process"
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        yield f"gpu {i}       {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.is_available():
        yield "gpu         none that torch can use"
    backends = [name for name in ("gloo", "nccl") if getattr(torch.distributed, f"is_{name}_available")()]
    yield f"backends    {', '.join(backends)}"


def _ranks() -> Iterator[str]:
    if is_rank():
        yield f"ranks       this is rank {rank_of_process()} of {size_of_process()} (from the environment)"
    else:
        yield "ranks       no launcher in the environment: hnm starts its own (--ranks)"
    scheduler = "SLURM: sbatch is here" if shutil.which("sbatch") else "no SLURM on this machine (not needed)"
    yield f"scheduler   {scheduler}"


def _disk() -> Iterator[str]:
    """Print the free space here; yield a line if it is too little to work with."""
    free_gb = shutil.disk_usage(".").free / 1e9
    print(f"disk        {free_gb:.0f} GB free in {os.getcwd()}")
    if free_gb < LOW_DISK_GB:
        yield f"disk space: {free_gb:.1f} GB free here; a cohort of 10^6 patches of 224 px takes about 15 GB"


def _encoder(name: str) -> Iterator[str]:
    """Print where an encoder's weights are, or that the hub would give them; yield a line if neither."""
    from launch.verbs.encoder import whereabouts

    text, is_there = whereabouts(name)
    if is_there:
        print(f"encoder     {text}")
    else:
        yield f"encoder {text}"
