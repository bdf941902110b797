"""Everything that a GPU has to show, in one run of at most 8 minutes: a JSON line for each part as soon as it is done.

    python -m benchmarks.gpu               on a machine with a GPU; exit code 1 if a check failed
    python -m benchmarks.gpu --cpu         a rehearsal of every part at tiny size, without a GPU
    python -m benchmarks.gpu --wheels      the packages to carry to a machine that has torch >= 2.11 and little else

First come the checks (benchmarks/gpu_checks.py), then what is fast: decoding, the aggregator, streaming; then steps and embedding
by network and precision, and last what has to be compiled (on a CPU that takes minutes a network: --only leaves it out). What no
time was left for says so. Nothing outside the repository is read, and a run that was cut off has told what it had found.
"""

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

# beside torch, NumPy, SciPy, scikit-learn, Pillow, PyArrow, safetensors, fsspec, OpenCV, tifffile, rich, Jinja2 and PyYAML
WHEELS = ("pydantic", "pydantic_core", "annotated-types", "typing-inspection", "simplejpeg", "openslide-python", "openslide-bin",
          "shapely", "timm")  # fmt: skip
LIMIT_S = 480.0
LEFT_FOR_THE_END_S = 10.0

Part = tuple[str, float, Callable[[], dict[str, Any]]]  # name, seconds that it may take on a GPU, what it does


def parts_of(device: torch.device, folder: Path) -> Iterator[Part]:
    """Yield the parts in the order of what matters most."""
    from benchmarks import gpu_speed
    from benchmarks.gpu_checks import CHECKS
    from benchmarks.gpu_steps import draw_cohort

    is_gpu = device.type == "cuda"
    cohort = draw_cohort(folder / "small") if is_gpu else draw_cohort(folder / "small", 16, 4)
    for name, check in CHECKS.items():
        yield f"check: {name}", 40.0, partial(check, cohort, device)
    size = gpu_speed.SIZE if is_gpu else gpu_speed.TINY
    large = draw_cohort(folder / "large", size.side_px, size.tiles_per_side)
    yield "speed: decode", 15.0, partial(gpu_speed.decoding, large, size)
    yield "speed: aggregator", 30.0, partial(gpu_speed.aggregator_against_loop, size, device)
    yield "speed: streaming", 30.0, partial(gpu_speed.streaming, large, size, device)
    for is_compiled in (False, True):
        for network in gpu_speed.NETWORKS:
            for precision in ("bf16",) if is_compiled else ("fp32", "bf16"):
                name = f"speed: {network}, {precision}{', compiled' * is_compiled}"
                seconds = 90.0 if is_compiled else 25.0
                yield name, seconds, partial(gpu_speed.network_speed, network, precision, is_compiled, size, device)


def run_part(name: str, action: Callable[[], dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """Run a part and return what it says: its figures, or why it has none."""
    begin = time.monotonic()
    found: dict[str, Any]
    try:
        found = {"ok": True, **action()}
    except Exception as error:  # the other parts are still worth their time
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        found = {"ok": False, "error": f"{type(error).__name__}: {str(error).strip()[:600]}", "where": where}
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return {"part": name, **found, "seconds": round(time.monotonic() - begin, 1)}


def tell(**values: Any) -> None:
    """Print one line of JSON at once."""
    print(json.dumps(values, default=float), flush=True)


def print_wheels() -> int:
    """Print the command that fetches the packages to carry, in the versions of this machine."""
    names = []
    for package in WHEELS:
        try:
            names.append(f"{package}=={version(package)}")
        except PackageNotFoundError:
            names.append(package)
    platforms = " ".join(f"--platform manylinux{name}_x86_64" for name in ("_2_28", "_2_27", "_2_17", "2014"))
    print(f"pip download --no-deps --only-binary=:all: --python-version 3.12 {platforms} -d wheels {' '.join(names)}")
    print("there: pip install --no-index --no-deps --target site wheels/*.whl && PYTHONPATH=site python3 -m benchmarks.gpu")
    return 0


def measure(device: torch.device, limit_s: float, only: str) -> int:
    """Run the parts whose names begin with `only` within `limit_s` seconds; return the exit code."""
    from benchmarks.about import about

    begin = time.monotonic()
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    tell(part="about", gpu=gpu, threads=torch.get_num_threads(), **about("gpu", device.type != "cuda", ("torch", "numpy")))
    results: dict[str, list[str]] = {"ok": [], "failed": [], "no_time_left": []}
    with tempfile.TemporaryDirectory() as folder:
        for name, seconds, action in parts_of(device, Path(folder)):
            if not name.startswith(only):
                continue
            if time.monotonic() - begin + seconds > limit_s - LEFT_FOR_THE_END_S:
                results["no_time_left"].append(name)
                continue
            found = run_part(name, action, device)
            tell(**found)
            results["ok" if found["ok"] else "failed"].append(name)
    tell(part="summary", **results, seconds=round(time.monotonic() - begin, 1))
    return 1 if results["failed"] or not results["ok"] else 0


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, measure, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="rehearse on the CPU, at tiny size")
    parser.add_argument("--only", default="", metavar="NAME", help="only the parts whose names begin so, such as check")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="SECONDS", help="begin nothing that would end later")
    parser.add_argument("--wheels", action="store_true", help="print which packages to carry, and how")
    args = parser.parse_args(arguments)
    if args.wheels:
        return print_wheels()
    if not args.cpu and not torch.cuda.is_available():
        print("no CUDA here: run this on a machine with an NVIDIA GPU, or rehearse it with --cpu", file=sys.stderr)
        return 2
    return measure(torch.device("cpu") if args.cpu else torch.device("cuda", 0), args.limit, args.only)


if __name__ == "__main__":
    sys.exit(main())
