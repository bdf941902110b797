"""Kill a tiling of 12 whole slides at random moments, let two compete, and compare the cohorts byte by byte.

    python -m benchmarks.tiling_survival              20 kills of one run, then resume; 5 times two processes at once
    python -m benchmarks.tiling_survival --kills 3    fewer

Prints one JSON line; the exit code is 1 if a single byte differs.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from shards.tiling.tile import tile_cohort
from shards.tiling.tile_config import TileConfig

CONFIG = TileConfig(patch_px=32, mpp=0.5, background=["otsu_saturation"], shard_mb=1)
ROOT = Path(__file__).parents[1]


def twelve_slides(folder: Path, side_px: int = 512) -> Path:
    """Draw 12 whole slides and return slides.csv."""
    from shards.drawn.drawn_slides import make_whole_slides  # here: with it comes torch, 2.7 s of each tiling

    return make_whole_slides(folder, 12, side_px, 32, seed=0)


def start_tiling(slides_csv: Path, cohort: Path, num_workers: int) -> subprocess.Popen[str]:
    """Start a tiling in a process of its own; return when its work begins. At its end it prints how many it cut."""
    command = [sys.executable, "-m", "benchmarks.tiling_survival", "--tile", str(slides_csv), str(cohort), str(num_workers)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    )  # fmt: skip
    assert process.stdout is not None
    if process.stdout.readline() != "begins\n":
        raise RuntimeError(f"the tiling did not begin: {command}")
    return process


def digests(folder: Path) -> dict[str, str]:
    """Return a hash of each file below a folder, by relative path: all files, also hidden and temporary ones.

    But for the empty guard of claims, which stays where one was contested.
    """
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".takeover"
    }


def kill_and_resume(slides_csv: Path, cohort: Path, num_kills: int, num_workers: int, seconds: float) -> int:
    """Kill a tiling `num_kills` times, each at a random moment; after a whole cohort a new one is begun. Then resume.

    Args:
        slides_csv: the slides.
        cohort: where to tile.
        num_kills: how often.
        num_workers: of each run.
        seconds: about how long an undisturbed run takes after its begin.

    Returns:
        How many of the kills hit a run that was not finished.
    """
    chance, num_hits = random.Random(num_workers), 0
    for _ in range(num_kills):
        process = start_tiling(slides_csv, cohort, num_workers)
        time.sleep(chance.uniform(0.0, seconds))
        num_hits += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = sorted((cohort / "units").glob("*.parquet"))
        for path in done[:: 2 if len(done) > 8 else 100]:  # so that there is work left for the next kill
            path.unlink()
    tile_cohort(slides_csv, cohort, CONFIG)
    return num_hits


def compete(slides_csv: Path, cohort: Path) -> list[int]:
    """Tile with two processes at once; return how many slides each cut."""
    processes = [start_tiling(slides_csv, cohort, 1) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"a process failed: {outputs}")
    return [int(output) for output in outputs]


def survive(num_kills: int, num_races: int) -> dict[str, object]:
    """Run both trials and return the figures."""
    with tempfile.TemporaryDirectory() as folder:
        slides_csv = twelve_slides(Path(folder) / "slides", side_px=768)
        begin = time.monotonic()
        tile_cohort(slides_csv, Path(folder) / "undisturbed", CONFIG)
        seconds = time.monotonic() - begin
        expected = digests(Path(folder) / "undisturbed")
        hits, differing = [], set()
        for num_workers, kills in ((1, num_kills // 2), (2, num_kills - num_kills // 2)):
            cohort = Path(folder) / f"killed-{num_workers}"
            slack = 1.5 if num_workers > 1 else 0.0  # starting workers takes a second
            hits.append(kill_and_resume(slides_csv, cohort, kills, num_workers, seconds + slack))
            differing |= {f"killed: {name}" for name, _ in digests(cohort).items() ^ expected.items()}
        races = [compete(slides_csv, Path(folder) / f"race-{race}") for race in range(num_races)]
        for race in range(num_races):
            found = digests(Path(folder) / f"race-{race}")
            differing |= {f"race: {name}" for name, _ in found.items() ^ expected.items()}
    return {
        "num_slides": 12,
        "num_kills": num_kills,
        "num_kills_in_mid_run": sum(hits),
        "slides_cut_in_races": races,
        "identical": not differing,
        "files_that_differ": sorted(differing),
        "num_files_compared": len(expected),
    }


def main() -> int:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--races", type=int, default=5)
    parser.add_argument("--tile", nargs=3, metavar=("SLIDES", "COHORT", "WORKERS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.tile:
        print("begins", flush=True)
        slides_csv, cohort, num_workers = arguments.tile
        print(tile_cohort(Path(slides_csv), Path(cohort), CONFIG, num_workers=int(num_workers)).num_tiled)
        return 0
    figures = survive(arguments.kills, arguments.races)
    print(json.dumps(figures))
    return 0 if figures["identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
