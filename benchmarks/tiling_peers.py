"""Tiling against the strongest peers, on real slides and a drawn one: `python -m benchmarks.tiling --peers PYTHON_OF_HS2P`.

hs2p runs in an environment of its own (`python -m venv hs2p && hs2p/bin/pip install 'hs2p[openslide,vips,turbojpeg]'`, with
libturbojpeg; cucim-cu12 if it can be had), by the backend that is fastest on the slide. The other peer is the loop that people
write: OpenSlide reads a patch, libjpeg-turbo encodes it, a tar takes it, threads where there are several workers. All cut the
same patches as JPEG of quality 90, 4:2:0 (hs2p knows no other), each finds tissue and writes its files as it does; in turn.
The fastest round counts. Seconds of processor time beside it tell what a busy machine hides.
"""

import json
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openslide
import simplejpeg

from shards.cohort.slides import Slide
from shards.tiling.jpeg import in_order
from shards.tiling.survey import thumbnail_px
from shards.tiling.tile import tile_jobs
from shards.tiling.tile_config import TileConfig
from shards.tiling.tissue import otsu_saturation, shares
from shards.tiling.unit import SlideJob, read_unit_rows, slide_job, unit_path

PATCH_PX = 224
CONFIG = TileConfig(patch_px=PATCH_PX, mpp=0.5, assume_mpp=0.5, jpeg_quality=90, jpeg_subsampling=420)
BARS = {"hs2p": 1.3, "loop": 1.5}
WORKERS = (1, 2)
HS2P_BACKENDS = ("openslide", "vips", "cucim")


class Taken(NamedTuple):
    """One round: seconds by the clock and of the processor, and patches."""

    wall: float
    cpu: float
    tiles: int


class Hs2p:
    """A process of hs2p's own Python that tiles when it is asked to."""

    def __init__(self, python: Path) -> None:
        command = [str(python), str(Path(__file__).with_name("tiling_hs2p.py"))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]

    def tile(self, slide: Path, out: Path, xy: list[list[int]], backend: str, workers: int) -> Taken | str:
        """Tile a slide; return what it took, or why it failed."""
        request = {"slide": str(slide), "out": str(out), "mpp": CONFIG.mpp, "patch_px": PATCH_PX, "xy": xy}
        request |= {"quality": CONFIG.jpeg_quality, "workers": workers, "backend": backend}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("hs2p's process ended. Run its Python on benchmarks/tiling_hs2p.py to see why")
        answer = json.loads(line)
        return answer["error"] if "error" in answer else Taken(**answer)

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait(60)


def job_of(path: Path) -> SlideJob:
    """Return the job for one slide."""
    slide = Slide(path.stem, path, path.stem, {"label": 1}, {"split": "train"}, None)
    return slide_job(slide, None, CONFIG.model_dump(mode="json") | {"background": ["otsu_saturation"]})


def ours(path: Path, out: Path, workers: int) -> int:
    """Tile as `hnm tile` does; return the number of patches."""
    done = tile_jobs([job_of(path)], out, CONFIG, lambda items, *_: items, workers)
    (outcome,) = done.values()
    assert outcome.unit.status == "done", outcome.unit.status
    return outcome.unit.num_patches


def loop(path: Path, out: Path, workers: int, xy: np.ndarray) -> int:
    """Tile as people do by hand, patches of the corners `xy`; return their number."""
    out.mkdir(parents=True)
    with openslide.OpenSlide(path) as slide, tarfile.open(out / "tiles.tar", "w") as tar:
        px = thumbnail_px(max(slide.dimensions), PATCH_PX)
        thumbnail = np.asarray(slide.get_thumbnail((px, px)))
        mask, _ = otsu_saturation(thumbnail)
        shares(mask, slide.dimensions[0] / thumbnail.shape[1], xy[:, 0], xy[:, 1], PATCH_PX)

        def cut(corner: tuple[int, int]) -> tuple[tuple[int, int], bytes]:
            patch = np.asarray(slide.read_region(corner, 0, (PATCH_PX, PATCH_PX)).convert("RGB"))
            return corner, simplejpeg.encode_jpeg(patch, CONFIG.jpeg_quality, "RGB", "420")

        corners = [(int(x), int(y)) for x, y in xy]
        with ThreadPoolExecutor(workers) as pool:
            for (x, y), jpeg in map(cut, corners) if workers == 1 else in_order(cut, corners, pool, 32):
                member = tarfile.TarInfo(f"{x}_{y}.jpg")
                member.size = len(jpeg)
                tar.addfile(member, BytesIO(jpeg))
    return len(corners)


def timed(work: Callable[[Path], int], out: Path) -> Taken:
    """Return what one round took; what it wrote is removed."""
    wall, cpu = time.perf_counter(), time.process_time()
    tiles = work(out)
    taken = Taken(time.perf_counter() - wall, time.process_time() - cpu, tiles)
    shutil.rmtree(out)
    return taken


def corners_of(path: Path, cohort: Path) -> np.ndarray:
    """Return the patches of a tiled slide, (n, 2) level-0 pixels."""
    rows = read_unit_rows(unit_path(cohort, job_of(path).slide))
    return np.stack([rows[name].to_numpy() for name in ("x_level0", "y_level0")], axis=1)


def fastest_backend(hs2p: Hs2p, path: Path, folder: Path, xy: list[list[int]]) -> tuple[str, dict[str, Any]]:
    """Return hs2p's fastest backend on a slide, and what each took."""
    # twice: vips' reader, which wants rows in order, may fail on a slide that it has read before
    tried = {backend: [hs2p.tile(path, folder / "hs2p", xy, backend, 1) for _ in range(2)] for backend in HS2P_BACKENDS}
    errors = {name: next((its for its in both if isinstance(its, str)), None) for name, both in tried.items()}
    walls = {
        name: min(its.wall for its in both if isinstance(its, Taken)) for name, both in tried.items() if errors[name] is None
    }
    if not walls:
        raise RuntimeError(f"no backend of hs2p reads {path}: {tried}")
    told = {name: round(walls[name], 2) if name in walls else str(error)[:100] for name, error in errors.items()}
    return min(walls, key=walls.__getitem__), told


def against_peers(path: Path, folder: Path, hs2p: Hs2p, num_rounds: int) -> dict[str, Any]:
    """Take turns on one slide; return ratios by workers and peer, above 1: ours is faster."""
    ours(path, folder / "first", 1)
    xy = corners_of(path, folder / "first")
    shutil.rmtree(folder / "first")
    backend, backends = fastest_backend(hs2p, path, folder, xy.tolist())
    figures: dict[str, Any] = {"tiles": len(xy), "hs2p_backend": backend, "hs2p_seconds_by_backend": backends}
    for workers in WORKERS:
        rounds: dict[str, list[Taken]] = {"ours": [], "loop": [], "hs2p": []}
        for _ in range(num_rounds):
            rounds["ours"].append(timed(partial(ours, path, workers=workers), folder / "ours"))
            rounds["loop"].append(timed(partial(loop, path, workers=workers, xy=xy), folder / "loop"))
            taken = hs2p.tile(path, folder / "hs2p", xy.tolist(), backend, workers)
            assert isinstance(taken, Taken), taken
            rounds["hs2p"].append(taken)
        assert {taken.tiles for its in rounds.values() for taken in its} == {len(xy)}
        wall, cpu = ({name: min(its[which] for its in rounds[name]) for name in rounds} for which in (0, 1))
        figures[f"{workers}_workers"] = {
            "ratio": {peer: round(wall[peer] / wall["ours"], 2) for peer in BARS},
            "ratio_cpu": {peer: round(cpu[peer] / cpu["ours"], 2) for peer in BARS},
            "tiles_per_s": {name: round(len(xy) / seconds, 1) for name, seconds in wall.items()},
        }
    return figures


def measure_peers(slides: list[Path], folder: Path, python: Path, num_rounds: int) -> dict[str, Any]:
    """Return all figures: `ratio_to_peers` by slide and workers, and what they were made of."""
    hs2p = Hs2p(python)
    found = {}
    try:
        for path in slides:
            found[path.stem] = against_peers(path, folder, hs2p, num_rounds)
            print(json.dumps({path.stem: found[path.stem]}), file=sys.stderr, flush=True)
    finally:
        hs2p.close()
    ratios = {
        f"{name}_{workers}": figures[f"{workers}_workers"]["ratio"] for name, figures in found.items() for workers in WORKERS
    }
    short = [f"{key}: {peer}" for key, its in ratios.items() for peer, bar in BARS.items() if its[peer] < bar]
    return {"ratio_to_peers": ratios, "bars_to_peers": BARS, "short_of_a_bar": short, "slides": found}
