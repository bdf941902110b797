"""Rounds that embed what may matter (rounds.rescore=adaptive): what share of the hard negatives they find, at what cost.

    python -m benchmarks.rescore [--quick] [--share 0.31] [--folder TMP] [KEY=VALUE ...]
    python -m benchmarks.rescore --run hnm-demo/run

Drawn slides (shards/drawn/synthetic.py), 70 % to train, 10 % to validate, trained as the demo by `hnm train`, with a full pass
every second round. Before each full pass after the first it is asked which patches an adaptive round would have looked at, by
the scores of the adaptive round before it; the share of the hard negatives of the full pass that are among them is `found`, by
round. `cost` is the share of the patches that an adaptive round embeds (validation slides count, they are whole),
`embed_seconds_ratio` the same in seconds. With --run a finished run with rounds.rescore=all is read instead: each of its rounds
is a full pass, and is asked what an adaptive round would have looked at by the scores of the round before, for several shares.
The last line is JSON.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.about import about
from hnm.config import load_config
from hnm.mining.coordinator import read_decision, read_scores
from hnm.mining.ranking import mark_top
from hnm.mining.rescore import mark_rescored
from hnm.run.phase import read_state
from hnm.run.study import open_study
from launch.process.run_directory import read_run
from shards.cohort.cohort import Cohort
from shards.cohort.cohort_table import write_csv
from shards.drawn.synthetic import make_cohort_images
from shards.tiling.tile import tile_cohort

SETTINGS = [
    *("device=cpu", "tracking.enabled=false", "rounds.num_rounds=4", "rounds.rescore=adaptive", "rounds.rescore_full_every=2"),
]
QUICK = ["rounds.num_rounds=2"]
SHARES = (0.2, 0.25, 0.3, 0.4, 0.5)  # of --run


def make_cohort(folder: Path, quick: bool) -> Path:
    """Draw and tile the cohort; every tenth pair of slides of both labels validates, two of ten test."""
    num_slides, tiles_per_side, px = (20, 12, 32) if quick else (40, 16, 32)
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
    command = [sys.executable, "-m", "launch.cli", "train", str(cohort), str(run), "--config", "demo", *own]
    subprocess.run(command, check=True, stdout=sys.stderr)
    told = [read_decision(folder)["rescore"] for folder in sorted(run.glob("round-*"))]
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


def read_full_rounds(run: Path) -> dict[str, Any]:
    """Return what adaptive rounds would have found in a finished run of full ones."""
    config, cohort = read_run(run)
    study = open_study(Cohort.open(cohort), config.data, config.seed)
    folders = sorted(run.glob("round-*"))
    rows = []
    for before, after in pairwise(folders):
        negatives = mark_top(read_scores(after), study.kinds == 0, config.mining.neg_ratio, config.mining.ties)
        for share in SHARES:
            round_ = int(after.name.removeprefix("round-"))
            chosen = mark_rescored(read_scores(before), study, share, config.seed, round_)
            cost = np.count_nonzero(chosen) / study.num_patches_of(study.embedded_slides)
            found = np.count_nonzero(chosen & negatives) / np.count_nonzero(negatives)
            rows.append({"round": round_, "share": share, "cost": round(cost, 3), "found": round(found, 4)})
    return {"neg_ratio": config.mining.neg_ratio, "num_patches": study.num_patches_of(study.embedded_slides), "rows": rows}


def main() -> None:
    """Parse the command line, measure, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller slides, a smaller network, two rounds")
    parser.add_argument("--run", type=Path, default=None, help="a finished run of full rounds, which is read")
    parser.add_argument("--share", type=float, default=0.31, help="rounds.rescore_share")
    parser.add_argument("--folder", type=Path, default=None, help="where the files go for the time of the run")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE")
    args = parser.parse_intermixed_args()
    if args.run is not None:
        print(json.dumps({**about("rescore", args.quick, ("numpy", "torch")), **read_full_rounds(args.run)}))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result = measure(Path(folder), args.share, args.quick, args.settings)
    print(json.dumps({**about("rescore", args.quick, ("numpy", "torch")), **result}))


if __name__ == "__main__":
    main()
