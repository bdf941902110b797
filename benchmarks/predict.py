"""Does the map lie on the tumour? `python -m benchmarks.predict OUT [--quick] [--json FILE]`.

Draws whole slides with outlined tumours, trains on them (tile, pretrain, train, evaluate, export by the command line), then
predicts slides of another seed with the exported folder alone, and compares the patches called positive with the outlines:
intersection over union (IoU). What a grid can reach at best is measured too: the patches that truly are half tumour.
Run again, it goes on where it stopped.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import shapely

from benchmarks.about import about
from hnm.report.heatmap import ScoredPatches, overlap, positive_area
from shards.cohort.annotations import read_annotation
from shards.cohort.slides import read_slides
from shards.cohort.truth import overlap_shares
from shards.drawn.drawn_slides import make_whole_slides

PATCH_PX, SIDE_PX = 32, 1024
OVERRIDES = (
    "tile.points_file=null", "tile.positive_class=null", "tile.mpp=0.5", "tile.background=[otsu_saturation]",
    "mining.neg_ratio=0.1",
)  # fmt: skip


def run(*command: str) -> float:
    """Run `hnm` with these arguments and return its seconds; stop if it fails."""
    print("$ hnm " + " ".join(command), flush=True)
    begin = time.monotonic()
    subprocess.run([sys.executable, "-m", "launch.cli", *command], check=True)
    return time.monotonic() - begin


def train(out: Path, num_slides: int, ranks: int) -> dict[str, float]:
    """Draw, tile, pretrain, train, evaluate and export; return the seconds of each."""
    slides_csv, cohort, model = out / "slides" / "slides.csv", str(out / "cohort"), str(out / "run")
    if not slides_csv.is_file():
        make_whole_slides(slides_csv.parent, num_slides, SIDE_PX, PATCH_PX, seed=0)
    common = ["--config", "demo", "--ranks", str(ranks), *OVERRIDES]
    seconds = {
        "tile": run("tile", str(slides_csv), cohort, "--config", "demo", *OVERRIDES),
        "pretrain": run("pretrain", cohort, str(out / "pretrained"), *common),
        "train": run("train", cohort, model, "--encoder", str(out / "pretrained" / "encoder.safetensors"), *common),
        "evaluate": run("evaluate", model, "--ranks", str(ranks)),
        "export": run("export", model, str(out / "model")),
    }
    return {name: round(value, 1) for name, value in seconds.items()}


def slide_figures(out: Path, slide_id: str, annotation: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Return how one slide's map meets its outline, at the model's threshold and at best."""
    table = pq.read_table(out / "predictions" / "patches" / f"{slide_id}.parquet")
    x, y, scores = (table[name].to_numpy() for name in ("x_level0", "y_level0", "score"))
    area = read_annotation(annotation, [], None, False).area
    shares = overlap_shares(area, x, y, row["patch_level0"])
    half = ScoredPatches(x, y, row["patch_level0"], (shares >= 0.5).astype(np.float32))
    patches = ScoredPatches(x, y, row["patch_level0"], scores)
    moved = shapely.affinity.translate(area, row["patch_level0"], row["patch_level0"])
    thresholds = np.unique(np.quantile(scores, np.linspace(0.5, 1, 101)))
    best = max(thresholds, key=lambda threshold: overlap(positive_area(patches, threshold), area) or 0.0)
    return {
        "slide_id": slide_id,
        "score": row["score"],
        "iou": row["iou"],
        "iou_best_threshold": overlap(positive_area(patches, best), area),
        "iou_of_the_grid": overlap(positive_area(half, 0.5), area),
        "iou_outline_moved_by_a_patch": overlap(positive_area(patches, row["patch_threshold"]), moved),
    }


def main() -> None:
    """Parse the command line, run, print; write the result where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--quick", action="store_true", help="12 slides to train on instead of 40")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = about("predict", arguments.quick, ("torch", "numpy", "shapely", "openslide-bin"))
    seconds = train(arguments.out, 12 if arguments.quick else 40, arguments.ranks)
    fresh = arguments.out / "fresh" / "slides.csv"
    if not fresh.is_file():
        make_whole_slides(fresh.parent, 10, SIDE_PX, PATCH_PX, seed=1)
    predictions = arguments.out / "predictions"
    seconds["predict"] = round(run("predict", str(arguments.out / "model"), str(fresh), "--out", str(predictions)), 1)
    rows = {row["slide_id"]: row for row in pq.read_table(predictions / "predictions.parquet").to_pylist()}
    positive = [slide for slide in read_slides(fresh) if slide.annotation is not None]
    figures = [slide_figures(arguments.out, s.slide_id, s.annotation, rows[s.slide_id]) for s in positive if s.annotation]
    means = {name: round(float(np.mean([row[name] for row in figures])), 3) for name in figures[0] if "iou" in name}
    result |= {"seconds": seconds, "mean": means, "slides": figures, "all_scores": {k: r["score"] for k, r in rows.items()}}
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
