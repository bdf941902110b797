"""Rounds that embed what may matter (rounds.rescore=adaptive): what share of a full pass's hard negatives, at what cost.

    python -m benchmarks.rescore [--quick] [--share 0.31] [--folder TMP] [KEY=VALUE ...]

Drawn slides (shards/drawn/synthetic.py), 70 % to train, 10 % to validate, trained by `hnm train` with a full pass every second
round. Before each full pass after the first it is asked which patches an adaptive round would have looked at, by the scores of
the adaptive round before it; the share of the hard negatives of the full pass that are among them is `found`, by round. `cost` is
the share of the patches that an adaptive round embeds (validation slides count, they are whole), `embed_seconds_ratio` the same
in seconds. The last line is JSON.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.about import about
from hnm.config import load_config
from hnm.run.phase import read_state
from shards.cohort.cohort_table import write_csv
from shards.drawn.synthetic import make_cohort_images
from shards.tiling.tile import tile_cohort

SETTINGS = [
    *("device=cpu", "tracking.enabled=false", "encoder.stem=small", "encoder.width=0.25", "encoder.projection_dim=32"),
    *("pretrain.epochs=6", "pretrain.batch_size=128", "aggregate.epochs=40", "aggregate.lr=1e-3", "finetune.batch_size=128"),
    *("finetune.epochs_per_round=3", "finetune.warmup_epochs=3", "rounds.num_rounds=4", "rounds.embed_batch_size=128"),
    *("rounds.rescore=adaptive", "rounds.rescore_full_every=2"),
]
QUICK = [
    *("encoder.width=0.0625", "encoder.projection_dim=16", "pretrain.epochs=2", "aggregate.num_members=1", "aggregate.epochs=20"),
    *("pretrain.augment.recipe=weak", "finetune.augment.recipe=weak", "finetune.epochs_per_round=1", "finetune.batch_size=64"),
    "rounds.num_rounds=2",
]


def make_cohort(folder: Path, quick: bool) -> Path:
    """Draw and tile the cohort; every tenth pair of slides of both labels validates, two of ten test."""
    num_slides, tiles_per_side, px = (20, 10, 16) if quick else (40, 16, 32)
    table = make_cohort_images(folder / "slides", num_slides, tiles_per_side, px, seed=0)
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    splits = ["train"] * 7 + ["validation"] + ["test"] * 2
    new = [list((row | {"split": splits[number // 2 % 10]}).values()) for number, row in enumerate(rows)]
    write_csv(table, list(rows[0]), new)
    tile = [f"tile.patch_px={px}", "tile.points_file=points.csv", "tile.positive_class=tumour"]
    tile_cohort(table, folder / "cohort", load_config(overrides=tile).tile)
    return folder / "cohort"


def measure(folder: Path, share: float, quick: bool, settings: list[str]) -> dict[str, Any]:
    """Train, and return what the rounds told."""
    cohort, run = make_cohort(folder, quick), folder / "run"
    own = [*SETTINGS, *(QUICK if quick else []), f"rounds.rescore_share={share}", *settings]
    subprocess.run([sys.executable, "-m", "launch.cli", "train", cohort, run, *own], check=True, stdout=sys.stderr)
    told = [json.loads(path.read_text(encoding="utf-8"))["rescore"] for path in sorted(run.glob("round-*/mining.json"))]
    seconds = {one["round"]: one["seconds"] for one in read_state(run)["phases"] if one["phase"] == "embed"}
    full = [seconds[round_] for round_, one in enumerate(told) if one["full"]]
    part = [seconds[round_] for round_, one in enumerate(told) if not one["full"]]
    found = {round_: one["hard_negatives_within_adaptive"] for round_, one in enumerate(told) if round_ and one["full"]}
    return {
        "share_of_training_patches": share,
        "found": found,
        "worst_found": min(found.values()),
        "cost": round(max(one["share_rescored"] for one in told if not one["full"]), 4),
        "embed_seconds_ratio": round(len(full) * sum(part) / (len(part) * sum(full)), 3),
        "rounds": told,
    }


def main() -> None:
    """Parse the command line, measure, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller slides, a smaller network, two rounds")
    parser.add_argument("--share", type=float, default=0.31, help="rounds.rescore_share")
    parser.add_argument("--folder", type=Path, default=None, help="where the files go for the time of the run")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE")
    args = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result = measure(Path(folder), args.share, args.quick, args.settings)
    print(json.dumps({**about("rescore", args.quick, ("numpy", "torch")), **result}))


if __name__ == "__main__":
    main()
