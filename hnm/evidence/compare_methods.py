"""What a study says: every method beside the baselines on the same folds, and what each has cost.

    each method's crossval folder ──fold by fold──▶ means, differences to the best baseline, 95 % intervals
    state.json of its runs ──▶ what training spent, seconds a prediction takes, validation AUC against seconds

The best baseline of a figure is the one of the highest mean on the test slides: the hardest to beat, found with the test
slides' help. That is to the baselines' advantage, and never to a method's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hnm.encoder.trained_file import left_out_base
from hnm.engine.state import load_weights
from hnm.evidence.compare_crossval import CrossValidated, mean_differences, means, require_same_folds
from hnm.evidence.crossval import pooled_of
from hnm.evidence.evaluate import read_metrics
from hnm.run.budget import spent_before_finetune, spent_in_all
from hnm.run.checksums import read_state
from hnm.run_rounds import START_ENCODER, round_folder

FIGURES = (
    "slide auc", "instance auc", "context slide_auc_without_positive_patches", "instance in_positive_auc",
    "slide auprc", "slide balanced_accuracy", "slide brier",
)  # fmt: skip
COMPARED = ("slide auc", "instance auc")  # to the best baseline
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")

Fold = tuple[int, int]
Points = list[tuple[float, float]]  # (seconds, validation AUC)


@dataclass(frozen=True)
class Measured:
    """A method as its folds say it.

    Attributes:
        name: as in the table.
        is_baseline: fitted on the first features, no run of rounds.
        validated: its cross-validation.
        spent: by fold what its training cost: seconds, steps, epochs, and rounds of fine-tuning.
        seconds_per_1000_patches: of predicting: reading, embedding and scoring; None where it was not measured.
        parameters: of encoder and aggregator; a baseline's are those of the encoder.
        curves: by fold the course of the validation AUC.
        warnings: of its folds.
    """

    name: str
    is_baseline: bool
    validated: CrossValidated
    spent: Mapping[Fold, Mapping[str, float]]
    seconds_per_1000_patches: float | None
    parameters: int | None
    curves: Mapping[Fold, Points]
    warnings: list[str]


def spent_of_run(run: Path) -> dict[str, float]:
    """Return what the rounds of a run have cost; see `hnm.run.budget`."""
    phases = read_state(run)["phases"]
    rounds = sum(known["phase"] == "finetune" for known in phases)
    return {**spent_in_all(phases)._asdict(), "rounds": rounds}


def curve_of_run(run: Path) -> Points:
    """Return after each round of an evaluated run the seconds spent so far and the validation AUC."""
    phases, rounds = read_state(run)["phases"], read_metrics(run)["rounds"]
    return [
        (spent_before_finetune(phases, row["round"]).seconds, row["validation_auc"])
        for row in rounds
        if row["validation_auc"] is not None
    ]


def prediction_seconds(runs: Sequence[Path], num_patches: int) -> float | None:
    """Return the seconds that evaluated runs took for 1,000 of their `num_patches` test patches: read, embed, score."""
    seconds = [known["seconds"] for run in runs for known in read_state(run)["phases"] if known["phase"] == "evaluate"]
    return 1000 * sum(seconds) / num_patches if num_patches and len(seconds) == len(runs) else None


def count_parameters(encoder: Path) -> int | None:
    """Return how many parameters an encoder's file holds, without head and statistics; None where it holds adapters alone."""
    if not encoder.is_file() or left_out_base(encoder) is not None:
        return None
    weights = load_weights(encoder)[0]
    names = [name for name in weights if not name.startswith("projection.") and not name.endswith(BUFFERS)]
    return sum(weights[name].numel() for name in names)


def parameters_of_run(run: Path) -> int | None:
    """Return the parameters of a run's encoder and of its chosen round's aggregator."""
    encoder = count_parameters(run / START_ENCODER)
    aggregator = load_weights(round_folder(run, read_metrics(run)["chosen_round"]) / "aggregator.safetensors")[0]
    return None if encoder is None else encoder + sum(tensor.numel() for tensor in aggregator.values())


def best_baseline(methods: Sequence[Measured], figure: str) -> Measured | None:
    """Return the baseline of the highest mean test figure; None where no baseline defines it."""
    known = [(its, mean) for its in methods if its.is_baseline and (mean := _mean(its, figure)) is not None]
    return max(known, key=lambda pair: pair[1])[0] if known else None


def compare_methods(methods: Sequence[Measured], seed: int = 0) -> dict[str, Any]:
    """Return what study.json says of the methods.

    Args:
        methods: on the same folds.
        seed: of the bootstrap.

    Returns:
        `best_baseline` by figure; `methods`: a row each, with `mean` by figure, `out_of_fold` AUC, `difference` by figure to
        the best baseline, fold by fold, `spent` (means over folds), `curves`; intervals as in a cross-validation.

    Raises:
        InputError: the folds differ.
    """
    first = methods[0].validated
    for other in methods[1:]:
        require_same_folds(first, other.validated)
    best = {figure: best_baseline(methods, figure) for figure in COMPARED}
    return {
        "num_folds": first.num_folds,
        "num_seeds": first.num_repeats,
        "num_slides": len(first.slides.labels),
        "num_positive": int((first.slides.labels == 1).sum()),
        "best_baseline": {figure: None if its is None else its.name for figure, its in best.items()},
        "methods": [_row(its, best, seed) for its in methods],
    }


def _row(its: Measured, best: Mapping[str, Measured | None], seed: int) -> dict[str, Any]:
    validated = its.validated
    mean = means(validated.figures, FIGURES, validated.num_folds)
    differences = {}
    for figure, baseline in best.items():
        if baseline is not None and baseline is not its:
            (found,) = mean_differences(validated.figures, baseline.validated.figures, [figure], validated.num_folds).values()
            if found is not None:
                differences[figure] = {"to": baseline.name, **found}
    spent = {name: float(np.mean([of_fold[name] for of_fold in its.spent.values()])) for name in next(iter(its.spent.values()))}
    return {
        "name": its.name,
        "is_baseline": its.is_baseline,
        "mean": {name: figure for name, figure in mean.items() if figure is not None},
        "out_of_fold": pooled_of(validated.predictions, seed),
        "difference": differences,
        "spent": spent,
        "seconds_per_1000_patches": its.seconds_per_1000_patches,
        "parameters": its.parameters,
        "curves": [
            {"repeat": key[0], "fold": key[1], "seconds": [x for x, _ in points], "validation_auc": [y for _, y in points]}
            for key, points in its.curves.items()
        ],
        "warnings": its.warnings,
    }


def _mean(its: Measured, figure: str) -> float | None:
    (found,) = means(its.validated.figures, [figure], its.validated.num_folds).values()
    return None if found is None else float(found["mean"])

