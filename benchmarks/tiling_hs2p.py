"""hs2p in an environment of its own: tiles when it is asked to, one JSON line in, one out.

    PYTHON_OF_HS2P benchmarks/tiling_hs2p.py

In: {"slide", "out", "mpp", "patch_px", "quality", "workers", "backend", "xy"}; out: {"wall", "cpu", "tiles"} or {"error"}.
hs2p finds tissue in its own way and writes its own files; of the patches it cuts those of "xy", so that both cut the same.
It is imported before the first request, and what was written is removed outside of the time that is measured.
"""

import importlib
import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np


def tile(request: dict[str, Any], hs2p: Any) -> int:
    """Tile one slide; return the number of patches."""
    spec = hs2p.SlideSpec(sample_id="slide", image_path=Path(request["slide"]), spacing_at_level_0=request["mpp"])
    tiling = hs2p.TilingConfig(
        requested_spacing_um=request["mpp"],
        requested_tile_size_px=request["patch_px"],
        tolerance=0.05,
        overlap=0.0,
        backend=request["backend"],
    )
    workers, out = int(request["workers"]), Path(request["out"])
    segmentation = hs2p.SegmentationConfig(method="otsu")
    result = hs2p.tile_slide(spec, tiling=tiling, segmentation=segmentation, num_workers=workers)
    xy = np.array(request["xy"], np.int64)
    fractions = np.ones(len(xy), np.float32)
    index = np.arange(len(xy), dtype=np.int32)
    tiles = replace(result.tiles, x=xy[:, 0], y=xy[:, 1], tissue_fractions=fractions, tile_index=index)
    result = replace(result, tiles=tiles)
    _, result = hs2p.extract_tiles_to_tar(
        result, out, jpeg_quality=request["quality"], jpeg_backend="turbojpeg", num_workers=workers
    )
    hs2p.save_tiling_result(result, output_dir=out)
    return int(result.num_tiles)


def main() -> None:
    """Serve requests until standard input ends."""
    hs2p = importlib.import_module("hs2p.api")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        request, answer = json.loads(line), dict[str, Any]()
        try:
            wall, cpu = time.perf_counter(), time.process_time()
            tiles = tile(request, hs2p)
            answer = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "tiles": tiles}
        except Exception as error:  # a backend that cannot read this slide
            answer = {"error": f"{type(error).__name__}: {error}"}
        shutil.rmtree(request["out"], ignore_errors=True)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
