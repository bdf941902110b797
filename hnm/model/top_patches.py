"""The highest patches of each predicted slide as one table: of a slide known to be negative they are its hardest negatives."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hnm.report.hardest import hardest
from hnm.report.top_patches import HARD, HIGH, NUM_IN_FILE, TOP_FILE
from shards.cohort.slides import slide_key
from shards.files import whole_file

HEADINGS = ("slide_id", "what", "rank", "x_level0", "y_level0", "size_level0", "score", "called", "heatmap")


def write_top_of_predictions(out: Path, rows: Sequence[Any]) -> None:
    """Write `out`/top_patches.csv, whole or not at all.

    Args:
        out: folder of `hnm predict`, with the patches of all slides that have a score.
        rows: `hnm.model.predictions.Row` of each slide.
    """
    with whole_file(out / TOP_FILE) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        write = csv.writer(file).writerow
        write(HEADINGS)
        for row in rows:
            path = out / "patches" / f"{slide_key(row.slide_id)}.parquet"
            if row.score is None or not path.is_file():
                continue
            patches = pq.read_table(path)
            x_level0, y_level0, scores = (patches[name].to_numpy() for name in ("x_level0", "y_level0", "score"))
            for rank, at in enumerate(hardest(scores, np.arange(len(scores)), NUM_IN_FILE), start=1):
                called = int(scores[at] >= np.float32(row.patch_threshold))
                where = (int(x_level0[at]), int(y_level0[at]), row.patch_level0)
                heatmap = f"heatmaps/{slide_key(row.slide_id)}.png"
                write((row.slide_id, HARD if row.label == 0 else HIGH, rank, *where, f"{scores[at]:.6f}", called, heatmap))
