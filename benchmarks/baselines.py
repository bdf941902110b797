"""Trivial baselines on a pretrained general network's frozen features of colon: how far does one get in a minute?

    python -m benchmarks.baselines [--data ../shared/data/colon] [--out baselines-benchmark] [--folds 5] [--draws 2] [--share I/N]

EfficientNet-Lite0 (ImageNet) sees the 27 px nuclei at 64 px, normalised as it was trained (`own`: 0.5 / 0.5), and as
most others do with ImageNet (`imagenet`). On each, every baseline of hnm.baselines on

    natural         the 99 images as they are
    thinned 0.05    positive images thinned to 5 % positive patches (data.witness_rate)
    implanted 0.05  halves of negative images, with 5 % tumour nuclei of another image implanted (benchmarks.implanted)
    implanted 0.2   the same with 20 %

by cross-validation (each draw other folds, and other nuclei), fitted on training bags, chosen on validation bags: slide and patch
AUC on the test bags, and as `context` their slide AUC when all positive patches are taken out of them: what is left of it, the
surroundings tell. Of the implanted bags nothing should be left: 0.5. `probe` is no method: a logistic regression told the truth
of the training patches, to see what is in the features. `mean, all` and `meanstd, all` are fitted again with the strength that
was chosen, on training and validation bags together: what a third more bags are worth to a method that leaves none aside.

Each fold leaves a file in OUT; run again, the same command does what is missing, in several processes with --share. The last line
is JSON.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from benchmarks.about import about
from benchmarks.colon import command
from benchmarks.efficientnet_lite0 import write_weights
from benchmarks.implanted import NUM_BLOCKS, implant
from hnm.baselines.bags import Bags, Fitted
from hnm.baselines.baselines import BASELINES
from hnm.baselines.pooled import FittedPooled, Pooled
from hnm.encoder.embed_slides import features_path
from hnm.evidence.folds import draw_folds, over_folds, splits_of_fold
from hnm.run.witness_rate import thin_to_witness_rate
from hnm.statistics.metrics import auc
from shards.cohort.cohort import Cohort
from shards.exchange.features import read_features
from shards.files import write_json

NORMALISATIONS = {
    "imagenet": ("encoder.mean=[0.485,0.456,0.406]", "encoder.std=[0.229,0.224,0.225]"),
    "own": (),
}
NETWORK = ("encoder.name=timm/tf_efficientnet_lite0", "encoder.side_px=64")
COHORTS = ("natural", "thinned 0.05", "implanted 0.05", "implanted 0.2")
FIGURES = ("slide auc", "context auc", "patch auc")
PROBE, ALL = "probe", ", all"
METHODS = ("mean", f"mean{ALL}", "meanstd", f"meanstd{ALL}", *list(BASELINES)[2:], PROBE)


@dataclass(frozen=True)
class Drawn:
    """The bags of one draw: by bag the patches it is made of, its label, and whose it is."""

    rows: list[np.ndarray]
    labels: np.ndarray
    patients: np.ndarray


def draw_bags(cohort: Cohort, name: str, draw: int) -> Drawn:
    """Return the bags of a cohort (one of COHORTS)."""
    labels, bounds, truth = cohort.labels(), cohort.patch_bounds, cohort.patches.truth
    kind, _, rate = name.partition(" ")
    if kind == "implanted":
        made = implant(cohort.slide_ids.tolist(), bounds, truth, labels, float(rate), NUM_BLOCKS, draw)
        return Drawn(made.rows, made.labels, np.array([f"block-{block}" for block in made.blocks]))
    keep = np.ones(len(truth), bool) if kind == "natural" else thin_to_witness_rate(cohort, labels, float(rate), draw)
    rows = [np.flatnonzero(keep[start:stop]) + start for start, stop in pairwise(bounds)]
    return Drawn(rows, labels, cohort.slide_ids)


def figures_of_fold(features: np.ndarray, truth: np.ndarray, drawn: Drawn, words: np.ndarray, seed: int) -> dict[str, Any]:
    """Fit every baseline on one fold and return its figures by name.

    Args:
        features: (N, dim) float32 of all patches.
        truth: (N,) int8.
        drawn: the bags.
        words: (B,) their splits.
        seed: of the baselines.
    """
    train, validation, test = (_bags(features, drawn, np.flatnonzero(words == word)) for word in ("train", "validation", "test"))
    rows = [drawn.rows[bag] for bag in np.flatnonzero(words == "test")]
    found = {PROBE: _probe(train, truth[np.concatenate([drawn.rows[bag] for bag in np.flatnonzero(words == "train")])])}
    result: dict[str, Any] = {PROBE: {"patch auc": auc(truth[np.concatenate(rows)], found[PROBE](test))}}
    for name, baseline in BASELINES.items():
        start = time.process_time()
        fitted = baseline.fit(train, validation, seed)
        seconds = time.process_time() - start
        of_rows = [truth[its] for its in rows]
        result[name] = {**_figures(fitted, test, of_rows), "chosen": fitted.chosen, "cpu_seconds": seconds}
        if isinstance(fitted, FittedPooled):
            result[name + ALL] = _figures(fitted_on_all(fitted, train, validation), test, of_rows)
    return result


def fitted_on_all(fitted: FittedPooled, train: Bags, validation: Bags) -> FittedPooled:
    """Return pooling and head fitted again on training and validation bags, with the strength that was chosen."""
    both = Bags(train.features + validation.features, np.concatenate([train.labels, validation.labels]))
    return Pooled(fitted.with_std, (fitted.strength,)).fit(both, both, 0)


def _bags(features: np.ndarray, drawn: Drawn, which: np.ndarray) -> Bags:
    return Bags(tuple(features[drawn.rows[bag]] for bag in which), drawn.labels[which].astype(np.int8))


def _figures(fitted: Fitted, test: Bags, truth: list[np.ndarray]) -> dict[str, float | None]:
    """Return slide AUC, slide AUC without the positive patches, and patch AUC; a bag of positive patches only has no context."""
    left = [i for i, its in enumerate(truth) if np.any(its == 0)]
    context = Bags(tuple(test.features[i][truth[i] == 0] for i in left), test.labels[left])
    patches = fitted.patch_scores(test)
    return {
        "slide auc": auc(test.labels, fitted.slide_scores(test)),
        "context auc": auc(context.labels, fitted.slide_scores(context)),
        "patch auc": None if patches is None else auc(np.concatenate(truth), np.concatenate(patches)),
    }


def _probe(train: Bags, truth: np.ndarray) -> Any:
    """Return a function that scores the patches of bags, fitted on the true classes of training patches."""
    components = train.components
    head = LogisticRegression(C=0.03, class_weight="balanced", solver="newton-cholesky").fit(components.of(train.rows), truth)
    return lambda bags: head.decision_function(components.of(bags.rows))


def folds_of(out: Path, draws: int) -> Iterator[tuple[str, str, int, Path]]:
    """Yield (normalisation, cohort, draw, file) of everything, first draws first."""
    for draw in range(draws):
        for normalisation in NORMALISATIONS:
            for name in COHORTS:
                yield normalisation, name, draw, out / "fits" / f"{normalisation} {name} {draw}.json".replace(" ", "-")


def prepare(data: Path, out: Path) -> Cohort:
    """Tile the nuclei and embed them twice, where that is not done yet, and return the cohort."""
    commands: list[tuple[str, ...]] = []
    if not (out / "cohort" / "cohort.json").is_file():
        commands.append(("benchmarks.prepare_colon", str(data), str(out)))
        commands.append(("launch.cli", "tile", str(out / "slides.csv"), str(out / "cohort"), "--config", "colon"))
    for name, settings in NORMALISATIONS.items():
        if not (out / name).is_dir():
            where = ("--out", str(out / name), "--encoder", str(write_weights(out)))
            commands.append(("launch.cli", "embed", str(out / "cohort"), *where, *NETWORK, *settings))
    for arguments in commands:
        if command(*arguments, threads=os.cpu_count() or 1).returncode:
            raise SystemExit(1)
    return Cohort.open(out / "cohort")


def fit_missing(cohort: Cohort, out: Path, folds: int, draws: int, share: tuple[int, int]) -> None:
    """Fit what has no file yet, every N-th from the I-th on."""
    features: dict[str, np.ndarray] = {}
    for normalisation, name, draw, path in list(folds_of(out, draws))[share[0] - 1 :: share[1]]:
        if path.is_file():
            continue
        if normalisation not in features:
            files = [features_path(out / normalisation, str(slide)) for slide in cohort.slide_ids]
            features = {normalisation: np.concatenate([read_features(file).features for file in files]).astype(np.float32)}
        drawn = draw_bags(cohort, name, draw)
        of_bag, results = draw_folds(drawn.patients, drawn.labels, folds, draw), []
        for fold in range(folds):
            words = np.array(splits_of_fold(of_bag, fold, folds))
            results.append(figures_of_fold(features[normalisation], cohort.patches.truth, drawn, words, draw))
        write_json(path, results)
        print(f"{path.stem}: {_line(results)}", flush=True)


def _line(results: list[dict[str, Any]]) -> str:
    return ", ".join(f"{name} {np.mean([its[name]['slide auc'] for its in results]):.3f}" for name in BASELINES)


def summarise(out: Path, folds: int, draws: int) -> dict[str, Any]:
    """Return by normalisation, cohort and method each figure's mean with its interval over folds, and the folds' values."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {name: {cohort: [] for cohort in COHORTS} for name in NORMALISATIONS}
    for normalisation, name, _, path in folds_of(out, draws):
        found[normalisation][name] += json.loads(path.read_text(encoding="utf-8"))
    return {
        normalisation: {
            name: {method: _summary([fold[method] for fold in results], folds) for method in METHODS}
            for name, results in by_cohort.items()
        }
        for normalisation, by_cohort in found.items()
    }


def _summary(results: list[dict[str, Any]], folds: int) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for figure in FIGURES:
        values = [value for its in results if (value := its.get(figure)) is not None]
        if values:
            summary[figure] = over_folds(values, folds) | {"by_fold": [round(value, 3) for value in values]}
    if "chosen" in results[0]:
        summary["chosen"] = {key: [its["chosen"][key] for its in results] for key in results[0]["chosen"]}
        summary["cpu_seconds"] = float(np.median([its["cpu_seconds"] for its in results]))
    return summary


def table(results: dict[str, Any], cohort: str) -> str:
    """Return the figures of a cohort as Markdown."""
    headings = [f"{figure}, {normalisation}" for figure in FIGURES for normalisation in NORMALISATIONS]
    lines = [cohort, "", f"| baseline | {' | '.join(headings)} |", "|" + "---|" * (len(headings) + 1)]
    for method in METHODS:
        rows = [results[normalisation][cohort][method].get(figure) for figure in FIGURES for normalisation in NORMALISATIONS]
        lines.append(f"| `{method}` | {' | '.join(map(_cell, rows))} |")
    return "\n".join(lines) + "\n"


def _cell(figure: dict[str, Any] | None) -> str:
    return "" if figure is None else f"{figure['mean']:.3f} ({figure['low']:.2f} to {figure['high']:.2f})"


def main() -> None:
    """Fit what is missing; if all is there, print tables and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/colon"))
    parser.add_argument("--out", type=Path, default=Path("baselines-benchmark"))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=2, help="of folds, thinned and implanted nuclei")
    parser.add_argument("--share", default="1/1", help="I/N: only every N-th part, from the I-th on; no tables then")
    parser.add_argument("--quick", action="store_true", help="3 folds, one draw, in a folder of its own")
    args = parser.parse_args()
    folds, draws = (3, 1) if args.quick else (args.folds, args.draws)
    out = args.out / "quick" if args.quick else args.out
    number, _, count = args.share.partition("/")
    cohort = prepare(args.data, out)
    fit_missing(cohort, out, folds, draws, (int(number), int(count)))
    if any(not path.is_file() for *_, path in folds_of(out, draws)):
        return
    results = summarise(out, folds, draws)
    print("\n".join(table(results, name) for name in COHORTS))
    head = about("baselines", args.quick, ("numpy", "scikit-learn", "torch"))
    print(json.dumps({**head, "folds": folds, "draws": draws, "results": results}))


if __name__ == "__main__":
    main()
