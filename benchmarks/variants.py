"""Variants of a method judged by validation slides only: how the `hnm` preset was chosen.

    hnm crossval COHORT CV --preset dsmil --folds 5 ...          the folds, and an encoder for each
    python -m benchmarks.variants CV OUT --variant "now=mining.neg_ratio=0.2" --variant "wider=mining.neg_ratio=0.5" ...

Every variant is `hnm train` on each fold of CV from that fold's encoder, or with --pretrain from one of its own; what is read
is each round's mining.json: figures of the fold's validation slides, and the witness rates of what was mined. No test slide is
embedded. Settings that all variants share are given as such. Run again, the same command does what is missing. The last line
is JSON; it has the differences of each variant to the first, fold by fold, too.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.about import about
from hnm.coordinator import read_decision
from hnm.folds import over_folds
from hnm.rounds import START_ENCODER
from launch.crossval_folder import read_record, run_folder, split_column

FIGURES = {
    "validation_slide_auc": lambda decision: decision["validation"]["auc"],
    "validation_patch_auc": lambda decision: decision["validation_instance_auc"],
    "witness_rate_candidates": lambda decision: decision["witness_rate_candidates"],
    "witness_rate_self_paced": lambda decision: decision["witness_rate_self_paced"],
}
COMPARED = ("validation_slide_auc", "validation_patch_auc")


def train(crossval: Path, run: Path, fold: tuple[int, int], method: list[str], pretrain: bool, settings: list[str]) -> None:
    """Train one variant on one fold, if it is not done; `method` names config and preset. Its output goes to RUN.log."""
    run.parent.mkdir(parents=True, exist_ok=True)
    own = [f"data.split_column={split_column(fold)}", f"seed={fold[0]}", "tracking.enabled=false"]
    start = [] if pretrain else ["--encoder", str(run_folder(crossval, fold) / START_ENCODER)]
    options = [*start, *method, "--ranks", "1"]
    command = [sys.executable, "-m", "launch.cli", "train", str(crossval / "cohort"), str(run), *options, *settings, *own]
    with open(run.with_suffix(".log"), "ab") as log:
        done = subprocess.run(command, check=False, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"error: {run} failed, see {run.with_suffix('.log')}")


def figures_of(runs: list[Path]) -> dict[str, np.ndarray]:
    """Return each figure as (rounds, runs) float64."""
    rounds = sorted(folder.name for folder in runs[0].glob("round-*"))
    decisions = [[read_decision(run / name) for run in runs] for name in rounds]
    return {
        name: np.array([[value(decision) for decision in of_round] for of_round in decisions])
        for name, value in FIGURES.items()
    }


def by_round(values: np.ndarray, num_folds: int) -> list[dict[str, Any]]:
    """Return the mean and interval over folds for each round; values (rounds, folds)."""
    return [over_folds(of_round.tolist(), num_folds) for of_round in values]


def summary(variants: dict[str, dict[str, np.ndarray]], num_folds: int) -> dict[str, Any]:
    """Return by variant and figure the mean and interval for each round, and of the difference to the first variant."""
    first = next(iter(variants.values()))
    return {
        name: {
            **{figure: by_round(values, num_folds) for figure, values in figures.items()},
            "minus_first": {figure: by_round(figures[figure] - first[figure], num_folds) for figure in COMPARED},
        }
        for name, figures in variants.items()
    }


def table(variants: dict[str, dict[str, Any]]) -> str:
    """Return the means by round as Markdown."""
    lines = [f"| variant | {' | '.join(FIGURES)} |", "|" + "---|" * (len(FIGURES) + 1)]
    for name, figures in variants.items():
        cells = [" ".join(f"{of_round['mean']:.3f}" for of_round in figures[figure]) for figure in FIGURES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, train what is missing, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("crossval", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--variant", action="append", required=True, metavar="NAME=KEY=VALUE ...", help="may be repeated")
    parser.add_argument("--config", default="colon")
    parser.add_argument("--preset", default="hnm")
    parser.add_argument("--pretrain", action="store_true", help="each variant pretrains encoders of its own")
    parser.add_argument("--folds", type=int, nargs="+", help="only these, counted from 0")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trainings at a time, one thread each")
    parser.add_argument("shared", nargs="*", help="section.key=value for all variants")
    args = parser.parse_intermixed_args()
    record = read_record(args.crossval)
    folds = list(product(range(record["repeats"]), args.folds or range(record["folds"])))
    settings = {name: words.split() for name, _, words in (variant.partition("=") for variant in args.variant)}
    runs = {name: [args.out / name / f"repeat-{r}-fold-{f}" for r, f in folds] for name in settings}
    tasks = [(run, fold, words) for name, words in settings.items() for run, fold in zip(runs[name], folds, strict=True)]
    method = ["--config", args.config, "--preset", args.preset]
    with ThreadPoolExecutor(args.jobs) as pool:
        started = [
            pool.submit(train, args.crossval, run, fold, method, args.pretrain, [*args.shared, *words])
            for run, fold, words in tasks
        ]
    for training in started:
        training.result()
    variants = summary({name: figures_of(its) for name, its in runs.items()}, record["folds"])
    print(table(variants), flush=True)
    head = {**about("variants", False, ("numpy", "torch")), "folds": folds, "method": method}
    head.update(shared=args.shared, settings=settings)
    print(json.dumps({**head, "variants": variants}))


if __name__ == "__main__":
    main()
