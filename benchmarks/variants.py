"""Variants of a method judged by validation slides only: how the `hnm` preset was chosen.

    hnm crossval COHORT CV --preset dsmil --folds 5 ...          the folds, and an encoder for each
    python -m benchmarks.variants CV OUT --variant "now=mining.neg_ratio=0.2" --variant "wider=mining.neg_ratio=0.5" ...

Every variant is `hnm train` on each fold of CV from that fold's encoder, or with --pretrain from one of its own; what is read
is each round's mining.json: figures of the fold's validation slides, and the witness rates of what was mined. No test slide is
embedded. Settings that all variants share are given as such. Run again, the same command does what is missing. The last line
is JSON; it has the differences of each variant to the first, fold by fold, too: in the rounds that both have. A figure that no
fold defines (patches without truth) is null there, and "-" in the table.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.about import about
from hnm.evidence.compare_crossval import FoldFigures, mean_differences, means
from hnm.mining.coordinator import read_decision
from hnm.run_rounds import START_ENCODER
from launch.verbs.crossval_folder import read_record, run_folder, split_column

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


def figures_of(runs: list[Path]) -> list[FoldFigures]:
    """Return by round, then by run, the figures that mining.json defines; those it leaves open (null) are left out."""
    rounds = sorted(folder.name for folder in runs[0].glob("round-*"))
    return [{run.name: _known(read_decision(run / name)) for run in runs} for name in rounds]


def _known(decision: dict[str, Any]) -> dict[str, float]:
    figures = {name: value(decision) for name, value in FIGURES.items()}
    return {name: value for name, value in figures.items() if value is not None}


def summary(variants: dict[str, list[FoldFigures]], num_folds: int) -> dict[str, Any]:
    """Return by variant and figure the mean and interval for each round, and of the difference to the first variant.

    A fold that leaves a figure open takes no part in its mean (the interval's "num" is of those that do); where no fold
    defines it, there is None. A difference is of the folds in which both define the figure, and of the rounds that both have.

    Args:
        variants: by name, the first first: of each round, by fold, the figures that are known.
        num_folds: of one repeat.
    """
    first = next(iter(variants.values()))
    result: dict[str, Any] = {}
    for name, rounds in variants.items():
        own = [means(of_round, list(FIGURES), num_folds) for of_round in rounds]
        pairs = zip(rounds, first, strict=False)  # one may have more rounds
        minus = [mean_differences(ours, theirs, COMPARED, num_folds) for ours, theirs in pairs]
        result[name] = {figure: [its[figure] for its in own] for figure in FIGURES}
        result[name]["minus_first"] = {figure: [its[figure] for its in minus] for figure in COMPARED}
    return result


def table(variants: dict[str, dict[str, Any]]) -> str:
    """Return the means by round as Markdown; "-" where no fold defines a figure."""
    lines = [f"| variant | {' | '.join(FIGURES)} |", "|" + "---|" * (len(FIGURES) + 1)]
    for name, figures in variants.items():
        cells = [" ".join(f"{its['mean']:.3f}" if its else "-" for its in figures[figure]) for figure in FIGURES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def settings_of(variants: list[str]) -> dict[str, list[str]]:
    """Return the settings of each variant by its name; `variants` are as --variant takes them.

    Raises:
        ValueError: a name is given twice: both would train in one folder.
    """
    pairs = [(name, words.split()) for name, _, words in (variant.partition("=") for variant in variants)]
    counts = Counter(name for name, _ in pairs)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"--variant {twice[0]}=...: given {counts[twice[0]]} times. Give each variant a name of its own")
    return dict(pairs)


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
    try:
        settings = settings_of(args.variant)
    except ValueError as error:
        parser.error(str(error))
    record = read_record(args.crossval)
    folds = list(product(range(record["repeats"]), args.folds or range(record["folds"])))
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
