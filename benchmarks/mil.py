"""The aggregators on MUSK1 and ELEPHANT, beside DSMIL's published accuracy.

    python -m benchmarks.mil ../shared/data/mil_benchmarks [--quick] [--kinds dsmil max ...] [--repeats 2] [--partial FILE]

10-fold cross-validation with the settings of DSMIL's program: one bag a step, Adam (betas 0.5 and 0.9, weight decay 5e-3, rate
2e-4, cosine to zero), 40 epochs, loss half on the bag logit and half on the highest instance logit. Three readings of the same
trainings, each with a 95 % interval over resampled bags:

    published   per fold the best epoch on the test fold, at the threshold that suits the test fold best: DSMIL's program
    best_epoch  per fold the best epoch on the test fold, at 0.5
    honest      the last epoch at 0.5: nothing is chosen

The first two look at the answers; only the third says what to expect of new bags. DSMIL's paper: 0.932 on MUSK1, 0.925 on
ELEPHANT, read in the first way. Folds here are stratified and hold all bags (the program's are not, and leave the rest out).
With --partial each finished row is kept in FILE, and the same command goes on after it. The last line is JSON.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch.nn import functional

from benchmarks.about import about
from hnm.aggregator.aggregators import Aggregator, Kind, build_aggregator
from hnm.aggregator.baselines import clam_losses
from hnm.aggregator.dsmil import Packed, pack, segment_argmax
from hnm.statistics.bootstrap import bootstrap_intervals
from hnm.statistics.metrics import auc, youden_threshold
from shards.cohort.splits import fold_patients
from shards.errors import InputError
from shards.files import write_json
from shards.seeding import numpy_generator, seeded_torch

PUBLISHED = {"MUSK1": 0.932, "ELEPHANT": 0.925}
NUM_FOLDS, LR, WEIGHT_DECAY, CLAM_WEIGHT, CLAM_TOP_K = 10, 2e-4, 5e-3, 0.3, 8
READINGS = ("published", "best_epoch", "honest")


def load(folder: Path, name: str) -> tuple[list[torch.Tensor], np.ndarray]:
    """Return the bags (patches, dim) float32 and their labels (bags,) 1 or 0.

    Raises:
        InputError: the files are not there.
    """
    try:
        features, labels, ids = (np.load(folder / f"{name}_{what}.npy") for what in ("features", "labels", "bag_ids"))
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: not there. Give the folder with {name}_features.npy") from None
    bags = [features[ids == bag] for bag in np.unique(ids)]
    positive = [int(labels[ids == bag].max() > 0) for bag in np.unique(ids)]
    return [torch.from_numpy(bag.astype(np.float32)) for bag in bags], np.array(positive)


def loss_of(model: Aggregator, bag: Packed, label: float, pos_weight: torch.Tensor, is_clam: bool) -> torch.Tensor:
    """Return the loss of one bag: DSMIL's of both streams, CLAM's with its patches, or of the bag logit alone."""
    prediction = model(bag)
    target = torch.tensor([label])

    def entropy(logits: torch.Tensor) -> torch.Tensor:
        return functional.binary_cross_entropy_with_logits(logits, target, pos_weight=pos_weight)

    if model.two_streams:
        highest = prediction.instance_logits[segment_argmax(prediction.instance_logits, bag.bag, 1)]
        return 0.5 * entropy(prediction.bag_logits) + 0.5 * entropy(highest)
    if is_clam:
        patches = clam_losses(prediction, bag, target == 1, CLAM_TOP_K).sum()
        return (1 - CLAM_WEIGHT) * entropy(prediction.bag_logits) + CLAM_WEIGHT * patches
    return entropy(prediction.bag_logits)


def train_fold(
    kind: str, bags: list[torch.Tensor], labels: np.ndarray, test: np.ndarray, epochs: int, seed: tuple[int, int]
) -> np.ndarray:
    """Train on all bags but `test` (t,) and return the scores of the test bags after every epoch, (epochs, t)."""
    train = np.setdiff1d(np.arange(len(bags)), test)
    with seeded_torch(*seed):
        model = build_aggregator(kind, bags[0].shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, betas=(0.5, 0.9), weight_decay=WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    pos_weight = torch.tensor(np.sum(labels[train] == 0) / np.sum(labels[train] == 1), dtype=torch.float32)
    packed, of_test = [pack([bag]) for bag in bags], pack([bags[bag] for bag in test])
    scores = np.empty((epochs, len(test)))
    for epoch in range(epochs):
        for bag in numpy_generator(*seed, epoch).permutation(train):
            optimizer.zero_grad()
            loss_of(model, packed[bag], float(labels[bag]), pos_weight, kind == "clam_sb").backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            scores[epoch] = model(of_test).bag_logits.sigmoid().numpy()
    return scores


def read(scores: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return by reading which test bags are right, (t,) bool; scores (epochs, t)."""
    by_half = (scores >= 0.5) == (labels == 1)
    by_best = np.stack([(row >= youden_threshold(labels, row)) == (labels == 1) for row in scores])
    return {
        "published": by_best[by_best.mean(1).argmax()],
        "best_epoch": by_half[by_half.mean(1).argmax()],
        "honest": by_half[-1],
    }


def measure(kind: str, bags: list[torch.Tensor], labels: np.ndarray, epochs: int, repeats: int) -> dict[str, Any]:
    """Return accuracies with intervals, and the AUC of the out-of-fold scores, of one kind on one data set."""
    start = time.perf_counter()
    right = {name: np.zeros((repeats, len(bags))) for name in READINGS}
    last_scores = np.zeros((repeats, len(bags)))
    for repeat in range(repeats):
        fold_of = np.array(fold_patients([(int(label),) for label in labels], NUM_FOLDS, repeat))
        for fold in range(NUM_FOLDS):
            test = np.flatnonzero(fold_of == fold)
            scores = train_fold(kind, bags, labels, test, epochs, (repeat, fold))
            last_scores[repeat, test] = scores[-1]
            for name, values in read(scores, labels[test]).items():
                right[name][repeat, test] = values
    intervals = bootstrap_intervals(
        lambda rows: {name: float(right[name][:, rows].mean()) for name in READINGS}, labels, np.arange(len(bags)), seed=0
    )
    aucs = [auc(labels, scores) or 0.0 for scores in last_scores]
    result: dict[str, Any] = {
        name: {
            "accuracy": round(float(right[name].mean()), 4),
            "interval": [round(value or 0.0, 4) for value in intervals[name][:2]],
            "by_repeat": [round(float(value), 4) for value in right[name].mean(1)],
        }
        for name in READINGS
    }
    return {**result, "honest_auc": round(float(np.mean(aucs)), 4), "seconds": round(time.perf_counter() - start, 1)}


def line(dataset: str, kind: str, result: dict[str, Any]) -> str:
    """Return a row of the table."""
    readings = [(result[name]["accuracy"], *result[name]["interval"]) for name in READINGS]
    cells = [f"{accuracy:.3f} ({low:.3f} to {high:.3f})" for accuracy, low, high in readings]
    paper = f"{PUBLISHED[dataset]:.3f}" if kind == "dsmil" else ""
    return f"| {dataset} | {kind} | {paper} | {' | '.join(cells)} | {result['honest_auc']:.3f} | {result['seconds']:.0f} |"


def main() -> None:
    """Parse the command line, measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with MUSK1_features.npy and so on")
    parser.add_argument("--quick", action="store_true", help="3 epochs, one repeat: under two minutes")
    parser.add_argument("--kinds", nargs="+", choices=get_args(Kind), default=get_args(Kind))
    parser.add_argument("--partial", type=Path, help="keep finished rows here, and go on from there")
    parser.add_argument("--repeats", type=int, default=2, help="10-fold cross-validations, each with other folds")
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args()
    epochs, repeats = (3, 1) if args.quick else (args.epochs, args.repeats)
    torch.set_num_threads(1)  # a bag has a few patches: threads only cost
    print("| data | aggregator | paper | " + " | ".join(READINGS) + " | AUC, honest | seconds |\n|" + "---|" * 8, flush=True)
    results: dict[str, dict[str, Any]] = {dataset: {} for dataset in PUBLISHED}
    settings = {"epochs": epochs, "repeats": repeats}
    if args.partial and args.partial.is_file():
        known = json.loads(args.partial.read_text(encoding="utf-8"))
        results = known["results"] if known["settings"] == settings else results
    for dataset in PUBLISHED:
        bags, labels = load(args.data, dataset)
        for kind in args.kinds:
            if kind not in results[dataset]:
                results[dataset][kind] = measure(kind, bags, labels, epochs, repeats)
                if args.partial:
                    write_json(args.partial, {"settings": settings, "results": results})
            print(line(dataset, kind, results[dataset][kind]), flush=True)
    head = about("mil", args.quick, ("numpy", "torch"))
    print(json.dumps({**head, "published": PUBLISHED, **settings, "results": results}))


if __name__ == "__main__":
    main()
