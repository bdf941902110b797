"""How fast whole slides are tiled, against the plain loop; how it scales; and whether memory grows with the slide.

    python -m benchmarks.tiling            20,000 and 40,000 px, half an hour on 2 busy cores
    python -m benchmarks.tiling --quick    2,048 and 4,096 px, a minute; its figures mean little
    python -m benchmarks.tiling --peers hs2p/bin/python    against hs2p and a loop over OpenSlide (see benchmarks.tiling_peers)

Prints one JSON line. The plain loop is what public tools do: one process, OpenSlide's DeepZoomGenerator over all tiles,
PIL's FIND_EDGES as the background filter, and PIL saving each kept tile to a file. Ours cuts the same slide at the same
resolution with the same filter and threshold. Both run alternately in this one run; of each the fastest round counts,
as other work on the machine can only slow a round down.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openslide
from openslide.deepzoom import DeepZoomGenerator
from PIL import ImageFilter

from benchmarks.tiling_peers import measure_peers
from shards.cohort.slides import Slide
from shards.files import write_json
from shards.tiling.cut import tile_slide
from shards.tiling.tile import tile_jobs
from shards.tiling.tile_config import TileConfig
from shards.tiling.unit import SlideJob, slide_job

PATCH_PX = 224
# Drawn tissue is smoother than real one: glass has an edge energy of 5, tissue of 7 to 28. Both get this threshold.
CONFIG = TileConfig(patch_px=PATCH_PX, mpp=0.5, background=["edge_energy"], min_edge_energy=6.0, jpeg_quality=90)
BARS = {"ratio_to_plain_loop": 1.5, "scaling_2_workers": 1.8, "memory_growth": 1.3}
TOOLS = ("openslide-python", "openslide-bin", "opencv-python-headless", "simplejpeg", "pillow", "numpy")


def draw(path: Path, side_px: int, index: int = 0) -> Path:
    """Draw a slide of which half is background."""
    from shards.drawn.drawn_slides import design_slide, write_pyramid  # they import torch: workers and the memory of a
    from shards.seeding import numpy_generator  # tiling must not have it

    write_pyramid(path, design_slide(side_px, 32, 0.45, 0.12, True, numpy_generator(0, "benchmark", index)), mpp=0.5)
    return path


def plain_loop(path: Path, out: Path) -> int:
    """Tile as public tools do; return the number of tiles kept."""
    out.mkdir(parents=True)
    kept = 0
    with openslide.OpenSlide(path) as slide:
        tiles = DeepZoomGenerator(slide, tile_size=PATCH_PX, overlap=0, limit_bounds=False)
        level = tiles.level_count - 1
        columns, rows = tiles.level_tiles[level]
        for row in range(rows):
            for column in range(columns):
                tile = tiles.get_tile(level, (column, row))
                edges = np.asarray(tile.filter(ImageFilter.FIND_EDGES))
                if edges.sum() / 3 / PATCH_PX**2 > CONFIG.min_edge_energy:
                    tile.save(out / f"{column}_{row}.jpeg", quality=CONFIG.jpeg_quality)
                    kept += 1
    return kept


def job_of(path: Path) -> SlideJob:
    """Return the job for one slide."""
    slide = Slide(path.stem, path, path.stem, {"label": 1}, {"split": "train"}, None)
    return slide_job(slide, None, CONFIG.model_dump(mode="json"))


def ours(path: Path, out: Path) -> int:
    """Tile with `hnm tile`'s code in this process; return the number of tiles kept."""
    outcome = tile_slide(job_of(path), out, CONFIG)
    assert outcome is not None
    assert outcome.unit.status == "done", outcome.unit.status
    return outcome.unit.num_patches


def with_workers(paths: list[Path], out: Path, num_workers: int) -> int:
    """Tile several slides in worker processes; return the number of tiles kept."""
    done = tile_jobs([job_of(path) for path in paths], out, CONFIG, lambda items, *_: items, num_workers)
    return sum(outcome.unit.num_patches for outcome in done.values())


def timed(work: Callable[[Path], int], folder: Path) -> tuple[float, float, int]:
    """Return (wall seconds, CPU seconds of this process, tiles) of one round; what it wrote is removed."""
    wall, cpu = time.perf_counter(), time.process_time()
    num_tiles = work(folder)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    shutil.rmtree(folder)
    return wall, cpu, num_tiles


def against_plain_loop(path: Path, folder: Path, num_rounds: int) -> dict[str, float]:
    """Alternate ours and the plain loop on one slide."""
    rounds: dict[str, list[tuple[float, float, int]]] = {"ours": [], "plain": []}
    for _ in range(num_rounds):
        rounds["ours"].append(timed(lambda out: ours(path, out), folder / "ours"))
        rounds["plain"].append(timed(lambda out: plain_loop(path, out), folder / "plain"))
    wall, cpu = ({name: min(r[which] / r[2] for r in its) for name, its in rounds.items()} for which in (0, 1))
    return {
        "ratio_to_plain_loop": round(wall["plain"] / wall["ours"], 2),
        "ratio_to_plain_loop_cpu": round(cpu["plain"] / cpu["ours"], 2),
        "tiles_per_s_ours": round(1 / wall["ours"], 1),
        "tiles_per_s_plain_loop": round(1 / wall["plain"], 1),
        "num_tiles_ours": rounds["ours"][0][2],
        "num_tiles_plain_loop": rounds["plain"][0][2],
    }


def strangers(paths: list[Path], out: Path) -> int:
    """Let two processes that know nothing of each other tile half of the slides each: what two cores give at best."""
    out.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.tiling", "--tile"]
    halves = [[*command, str(out / str(half)), *map(str, paths[half::2])] for half in (0, 1)]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for words in halves]
    return sum(int(process.communicate()[0]) for process in processes)


def scaling(paths: list[Path], folder: Path, num_rounds: int) -> dict[str, float]:
    """Take turns on the same slides: one process, two workers, two processes that know nothing of each other."""
    ways: dict[str, Callable[[Path], int]] = {
        "1_process": lambda out: with_workers(paths, out, 1),
        "2_workers": lambda out: with_workers(paths, out, 2),
        "2_strangers": lambda out: strangers(paths, out),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(num_rounds):
        for name, way in ways.items():
            seconds[name].append(timed(way, folder / "scaling")[0])
    best = {name: min(times) for name, times in seconds.items()}
    return {
        "scaling_2_workers": round(best["1_process"] / best["2_workers"], 2),
        "scaling_2_strangers": round(best["1_process"] / best["2_strangers"], 2),
        **{f"seconds_{name}": round(value, 1) for name, value in best.items()},
    }


def peak_mb(path: Path, folder: Path) -> float:
    """Return the peak memory, MB, of a fresh process that tiles one slide."""
    command = [sys.executable, "-m", "benchmarks.tiling", "--measure-memory", str(path), str(folder / "memory")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(folder / "memory")
    return float(done.stdout)


def measure(folder: Path, side_px: int, num_rounds: int, num_slides: int) -> dict[str, object]:
    """Draw the slides and take all figures."""
    single = draw(folder / f"slide-{side_px}.tiff", side_px)
    figures: dict[str, object] = {"side_px": side_px, "load_at_begin": round(os.getloadavg()[0], 1)}
    figures |= against_plain_loop(single, folder, num_rounds)
    copies = [draw(folder / f"copy-{index}.tiff", side_px // 2, index) for index in range(num_slides)]
    figures |= scaling(copies, folder, num_rounds)
    small = peak_mb(single, folder)
    large = peak_mb(draw(folder / "large.tiff", 2 * side_px), folder)
    figures |= {"memory_growth": round(large / small, 3), "peak_mb": round(small), "peak_mb_twice": round(large)}
    return figures | {"load_at_end": round(os.getloadavg()[0], 1)}


def main() -> int:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small slides, one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the figures here, with machine and versions")
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="of an environment that has hs2p: only this comparison")
    parser.add_argument("--slides", nargs="*", type=Path, default=[], help="with --peers: real slides beside the drawn one")
    parser.add_argument("--measure-memory", nargs=2, type=Path, metavar=("SLIDE", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--tile", nargs="+", type=Path, metavar=("FOLDER", "SLIDE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.tile:
        folder, *slides = arguments.tile
        print(with_workers(slides, folder, 1))
        return 0
    if arguments.measure_memory:
        ours(*arguments.measure_memory)
        # Not ru_maxrss, which a child process takes over from its parent.
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        print(int(status["VmHWM"].split()[0]) / 1024)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if arguments.peers:
            side_px, num_rounds = (4096, 1) if arguments.quick else (20_000, arguments.rounds)
            slides = [*arguments.slides, draw(Path(folder) / f"drawn-{side_px}.tiff", side_px)]
            figures = measure_peers(slides, Path(folder), arguments.peers, num_rounds)
        elif arguments.quick:
            figures = measure(Path(folder), side_px=2048, num_rounds=1, num_slides=4)
        else:
            figures = measure(Path(folder), side_px=20_000, num_rounds=arguments.rounds, num_slides=12)
    figures |= {} if arguments.peers else {"bars": BARS}
    figures["load_average"] = [round(load, 1) for load in os.getloadavg()]
    print(json.dumps(figures))
    if arguments.out:
        machine = {"processor": platform.machine(), "cores": os.cpu_count(), "system": platform.platform()}
        versions = {"python": platform.python_version()} | {tool: version(tool) for tool in TOOLS}
        command = " ".join(["python -m benchmarks.tiling", *sys.argv[1:]])
        write_json(arguments.out, {"command": command, "machine": machine, "versions": versions, "figures": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
