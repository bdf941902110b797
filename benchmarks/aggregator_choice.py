"""Which aggregator suits these features: kinds compared by cross-validation on features that are there, test slides unread.

    hnm train COHORT RUN --preset frozen rounds.keep_features=true                 or: hnm import features
    python -m benchmarks.aggregator_choice COHORT RUN/round-000/features --kinds dsmil abmil_gated simlp
        [--folds 5] [--repeats 2] [--preset frozen] [--partial FILE] [--quick] [aggregate.epochs=50 ...]

Folds are drawn over the patients of the training and validation slides. A fold judges, the one before chooses the epoch where
aggregate.select=validation, the rest trains; every kind gets the same folds, seed and settings. Told are slide AUC and, where
patch truth is known, patch AUC: means over folds with an interval corrected for shared training slides, the difference of each
kind to the first fold by fold, and CPU seconds of training. An interval of a difference that holds 0 decides nothing. With
--partial each finished fold is kept in FILE, and the same command goes on after it. The last line is JSON.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.about import about
from hnm.aggregator.aggregate import AggregateConfig, train_aggregator
from hnm.aggregator.aggregators import Kind
from hnm.aggregator.bags import Bags
from hnm.aggregator.score import score_patches, slide_logits, slide_scores
from hnm.config import load_config
from hnm.engine.ranks import single_world
from hnm.evidence.compare_crossval import mean_differences, means
from hnm.evidence.folds import draw_folds
from hnm.run.journal import Journal
from hnm.run.session import Session
from hnm.run.study import Study, open_study
from hnm.statistics.metrics import auc
from shards.cohort.cohort import Cohort
from shards.files import write_json

FIGURES = ("slide_auc", "patch_auc", "cpu_seconds")
COMPARED = ("slide_auc", "patch_auc")
Fold = tuple[int, int]  # repeat, fold


def parts_of_fold(study: Study, num_folds: int, fold: Fold) -> tuple[Study, np.ndarray]:
    """Return the study of one fold, without test slides, and the slides that judge it."""
    slides = study.embedded_slides
    fold_of = draw_folds(study.patients_of(slides), study.labels[slides], num_folds, fold[0])
    judged, chosen = slides[fold_of == fold[1]], slides[fold_of == (fold[1] - 1) % num_folds]
    train = slides[(fold_of >= 0) & ~np.isin(slides, [*judged, *chosen])]
    return replace(study, train=train, validation=chosen, test=judged[:0]), judged


def judge(study: Study, judged: np.ndarray, bags: Bags, config: AggregateConfig, seed: int) -> dict[str, float]:
    """Train on a fold's slides and return the figures of those that judge; what is not defined is left out."""
    no_pictures: Any = None
    world = single_world()
    session, begin = Session(study, no_pictures, seed, world, Journal(None, world)), time.process_time()
    model = train_aggregator(bags, config, 0, session)
    seconds = time.process_time() - begin
    found = {"slide_auc": auc(study.labels[judged], slide_scores(slide_logits(model, bags, judged, world)))}
    truth = study.cohort.patches.truth[study.patches_of(judged)]
    scores = np.concatenate([score_patches(model, bags, *bags.rows_of_slide[int(slide)]) for slide in judged])
    known = truth >= 0
    found["patch_auc"] = auc(truth[known], scores[known]) if known.any() else None
    return {name: float(value) for name, value in found.items() if value is not None} | {"cpu_seconds": round(seconds, 2)}


def compare(
    study: Study, bags: Bags, configs: dict[str, AggregateConfig], folds: list[Fold], num_folds: int, partial: Path | None
) -> dict[str, dict[str, dict[str, float]]]:
    """Return by kind and fold what `judge` found; what the file `partial` knows is not done again."""
    about_it = {
        "settings": {kind: config.model_dump(mode="json") for kind, config in configs.items()},
        "num_folds": num_folds,
        "rows": bags.num_rows,
    }
    found: dict[str, dict[str, dict[str, float]]] = {kind: {} for kind in configs}
    if partial is not None and partial.is_file():
        known = json.loads(partial.read_text(encoding="utf-8"))
        found = known["found"] if known["about"] == about_it else found
    for fold in folds:
        own, judged = parts_of_fold(study, num_folds, fold)
        for kind, config in configs.items():
            if (name := f"repeat-{fold[0]}-fold-{fold[1]}") not in found[kind]:
                found[kind][name] = judge(own, judged, bags, config, fold[0])
                print(f"{name}, {kind}: {found[kind][name]}", flush=True)
                if partial is not None:
                    write_json(partial, {"about": about_it, "found": found})
    return found


def summary(found: dict[str, dict[str, dict[str, float]]], num_folds: int) -> dict[str, Any]:
    """Return by kind the means of the figures with their intervals, and of the differences to the first kind."""
    first = next(iter(found.values()))
    return {
        kind: {
            **means(figures, FIGURES, num_folds),
            "minus_first": mean_differences(figures, first, COMPARED, num_folds),
        }
        for kind, figures in found.items()
    }


def table(kinds: dict[str, Any]) -> str:
    """Return the means and differences as Markdown; "-" where no fold defines a figure."""

    def cell(figure: dict[str, Any] | None) -> str:
        if figure is None:
            return "-"
        interval = "" if figure["low"] is None else f" ({figure['low']:.3f} to {figure['high']:.3f})"
        return f"{figure['mean']:.3f}{interval}"

    head = ["kind", "slide AUC", "patch AUC", "minus the first, slide AUC", "minus the first, patch AUC", "CPU s"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for kind, its in kinds.items():
        cells = [cell(its[name]) for name in COMPARED] + [cell(its["minus_first"][name]) for name in COMPARED]
        lines.append(f"| {kind} | {' | '.join(cells)} | {its['cpu_seconds']['mean']:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, do what is missing, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("features", type=Path, help="a folder with index.json and rows-*.npy")
    parser.add_argument("--kinds", nargs="+", choices=get_args(Kind), default=["dsmil", "abmil_gated", "simlp"])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--config", help="a packaged configuration or YAML, as hnm train takes it")
    parser.add_argument("--preset", default="frozen")
    parser.add_argument("--partial", type=Path, help="keep finished folds here, and go on from there")
    parser.add_argument("--quick", action="store_true", help="3 folds, once, 3 epochs")
    parser.add_argument("shared", nargs="*", help="section.key=value for all kinds")
    args = parser.parse_intermixed_args()
    num_folds, repeats = (3, 1) if args.quick else (args.folds, args.repeats)
    config = load_config(args.config, args.preset, [*args.shared, *(["aggregate.epochs=3"] if args.quick else [])])
    study = open_study(Cohort.open(args.cohort), config.data, config.seed)
    bags = Bags(args.features, torch.device("cpu"), study.embedded_slides)
    configs = {kind: config.aggregate.model_copy(update={"kind": kind}) for kind in args.kinds}
    folds = [(repeat, fold) for repeat in range(repeats) for fold in range(num_folds)]
    found = compare(study, bags, configs, folds, num_folds, args.partial)
    kinds = summary(found, num_folds)
    print(table(kinds), flush=True)
    head = {**about("aggregator_choice", args.quick, ("numpy", "torch")), "folds": num_folds, "repeats": repeats}
    settings = config.aggregate.model_dump(mode="json", exclude={"kind"})
    print(json.dumps({**head, "settings": settings, "kinds": kinds, "by_fold": found}))


if __name__ == "__main__":
    main()
