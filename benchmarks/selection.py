"""Cost follows selection: what a fine-tuning epoch costs when fewer hard negatives are mined.

    python -m benchmarks.selection [--quick] [--folder TMP]

The demo's cohort (60 drawn slides, patches of 32 px) with more tiles a slide, and the demo's settings. Scores are drawn; mining
at neg_ratio 1.0, 0.2 and 0.05 takes turns; each time one epoch of both kinds of steps runs from the same encoder, patches
read from the tars. `relative_to_proportional` is (seconds at r / seconds at 1.0) / r: 1 where un-selected patches cost
nothing at all. A patch is un-selected here, but its slide is not: every slide keeps some. The last line is JSON.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.about import about
from hnm.config import load_config
from hnm.encoder.contrastive_model import fresh_model
from hnm.encoder.finetune import finetune
from hnm.engine.ranks import single_world
from hnm.mining.mining import choose, label
from hnm.run.journal import Journal
from hnm.run.session import Session
from hnm.run.study import open_study
from shards.cohort.cohort import Cohort
from shards.drawn.synthetic import make_cohort_images
from shards.reading.reader import PatchReader
from shards.tiling.tile import tile_cohort
from shards.tiling.tile_config import TileConfig

RATIOS = (1.0, 0.2, 0.05)
NUM_SLIDES, PATCH_PX = 60, 32


def make_cohort(folder: Path, tiles_per_side: int) -> Cohort:
    """Draw and tile the slides."""
    table = make_cohort_images(folder / "slides", NUM_SLIDES, tiles_per_side, PATCH_PX, seed=0)
    tile_cohort(table, folder / "cohort", TileConfig(patch_px=PATCH_PX))
    return Cohort.open(folder / "cohort")


def epoch(cohort: Cohort, ratio: float, batch_size: int) -> tuple[float, int, int]:
    """Fine-tune for one epoch of both kinds of steps; return its seconds, optimizer steps and hard negatives."""
    settings = [f"mining.neg_ratio={ratio}", f"finetune.batch_size={batch_size}", "finetune.epochs_per_round=1"]
    settings += ["encoder.width=0.25", "mining.hard_share=0.3333"]  # as the demo had them when this was first measured
    config = load_config("demo", None, [*settings])
    study, world = open_study(cohort, config.data, config.seed), single_world()
    scores = np.random.default_rng(0).random(cohort.num_patches, np.float32)
    scores[study.kinds == 1] *= 0.35  # about one in seven patches of positive slides is a candidate
    chosen = choose(scores, study.kinds, cohort.patch_bounds, config.mining)
    mined = label(chosen, study.kinds, config.mining.hard_share)
    model = fresh_model(config.encoder, seed=0)
    with PatchReader(cohort, config.reader) as reader:
        session = Session(study, reader, config.seed, world, Journal(None, world))
        start = time.perf_counter()
        _, steps = finetune(model, mined, config.finetune, config.mining, round_=1, num_rounds=2, session=session)
        return time.perf_counter() - start, steps, len(mined.negatives)


def measure(cohort: Cohort, batch_size: int, repeats: int) -> dict[str, Any]:
    """Return seconds, steps and hard negatives by ratio; seconds are the best of the repeats."""
    cases: dict[float, list[tuple[float, int, int]]] = {ratio: [] for ratio in RATIOS}
    epoch(cohort, RATIOS[-1], batch_size)  # the first epoch of a process pays for what later ones find ready
    for _ in range(repeats):
        for ratio in RATIOS:
            cases[ratio].append(epoch(cohort, ratio, batch_size))
            print(f"neg_ratio {ratio}: {cases[ratio][-1]} (seconds, steps, hard negatives)", flush=True)
    seconds = {ratio: min(runs)[0] for ratio, runs in cases.items()}
    relative = {str(ratio): round(seconds[ratio] / seconds[1.0] / ratio, 3) for ratio in RATIOS}
    return {
        "relative_to_proportional": relative,
        "worst_relative": max(relative.values()),
        "seconds": {str(ratio): round(value, 3) for ratio, value in seconds.items()},
        "steps": {str(ratio): runs[0][1] for ratio, runs in cases.items()},
        "num_hard_negatives": {str(ratio): runs[0][2] for ratio, runs in cases.items()},
    }


def main() -> None:
    """Parse the command line, measure, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer patches, under a minute")
    parser.add_argument("--folder", type=Path, default=None, help="where the cohort goes for the time of the run")
    args = parser.parse_args()
    # The fewer patches, the smaller the batches: at 5 % there must be several, or whole steps are all that one measures.
    tiles_per_side, batch_size, repeats = (8, 16, 1) if args.quick else (16, 64, 3)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        cohort = make_cohort(Path(folder), tiles_per_side)
        result = {"num_patches": cohort.num_patches, "batch_size": batch_size, **measure(cohort, batch_size, repeats)}
    head = about("selection", args.quick, ("numpy", "torch", "simplejpeg"))
    print(json.dumps({**head, "num_threads": torch.get_num_threads(), **result}))


if __name__ == "__main__":
    main()
