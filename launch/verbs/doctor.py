"""`hnm doctor`: what this machine has, and what is missing, in lines that can be pasted into a question."""

import importlib
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata

from launch.process.distributed import is_rank, rank_of_process, size_of_process

# package on the index: what fails without it (None: an option)
NEEDED = ("torch", "numpy", "scipy", "scikit-learn", "pillow", "simplejpeg", "webdataset", "safetensors", "pydantic",
          "pyarrow", "pyyaml", "typer", "rich", "fsspec", "openslide-python", "openslide-bin", "opencv-python-headless",
          "matplotlib", "shapely", "tifffile", "imagecodecs")  # fmt: skip
OPTIONAL = {"mlflow": "tracking; without it set tracking.enabled=false or read events.jsonl"}
LOW_DISK_GB = 10.0


def run() -> int:
    """Print the report; the exit code is 1 when something needed is missing."""
    missing = []
    print(f"python      {sys.version.split()[0]} on {platform.platform()}")
    for package in (*NEEDED, *OPTIONAL):
        version = _version(package)
        print(f"{package:<11} {version or 'MISSING'}")
        if version is None:
            missing.append(
                f"{package}: pip install {package}" + (f" ({OPTIONAL[package]})" if package in OPTIONAL else "")
            )
    if "torch" not in " ".join(missing):
        for line in _devices():
            print(line)
    for line in _ranks():
        print(line)
    missing += list(_disk())
    for line in missing:
        print(f"missing     {line}")
    if not missing:
        print("nothing is missing. Try: hnm demo")
    return int(any(not line.startswith(tuple(OPTIONAL)) for line in missing))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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
