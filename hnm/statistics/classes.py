"""Figures of classes: one is called for each slide, and each class has an AUC against the others.

    scores (n, targets), each of one class against the others ──logits, softmax──▶ probabilities (n, classes)
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from hnm.statistics.metrics import auc

CLIP = 1e-9  # from 0 and 1: a logit is finite


def class_probabilities(scores: np.ndarray, has_negative: bool) -> np.ndarray:
    """Return the probabilities of the classes, (n, targets) or, with a negative class as the last, (n, targets + 1).

    The softmax over the targets' logits; the negative class, which has no target, has the logit 0: with one target beside it
    the probabilities are the score and what is left of 1.

    Args:
        scores: (n, targets) in [0, 1].
        has_negative: whether there is a class without a target.
    """
    clipped = np.clip(scores, CLIP, 1 - CLIP)
    logits = np.log(clipped) - np.log1p(-clipped)
    if has_negative:
        logits = np.concatenate([logits, np.zeros((len(logits), 1))], axis=1)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def call_by_probability(scores: np.ndarray, thresholds: np.ndarray, has_negative: bool) -> np.ndarray:
    """Return the class of highest probability, (n,) int64; `thresholds` are not looked at."""
    return class_probabilities(scores, has_negative).argmax(axis=1)


def call_by_threshold(scores: np.ndarray, thresholds: np.ndarray, has_negative: bool) -> np.ndarray:
    """Return the class whose score stands highest above its threshold, in logits, (n,) int64; below all: the negative class.

    Args:
        scores: (n, targets) in [0, 1].
        thresholds: (targets,) chosen on validation slides.
        has_negative: whether there is a class without a target, the last.
    """
    clipped, cuts = np.clip(scores, CLIP, 1 - CLIP), np.clip(thresholds, CLIP, 1 - CLIP)
    above = np.log(clipped) - np.log1p(-clipped) - (np.log(cuts) - np.log1p(-cuts))
    called = above.argmax(axis=1)
    if has_negative:
        called[above.max(axis=1) < 0] = scores.shape[1]
    return called


CALLS: dict[str, Callable[[np.ndarray, np.ndarray, bool], np.ndarray]] = {
    "probability": call_by_probability,
    "threshold": call_by_threshold,
}


def choose_call(classes: np.ndarray, scores: np.ndarray, thresholds: np.ndarray, has_negative: bool) -> str:
    """Return the way of calling with the higher balanced accuracy on the validation slides; of equals the probability."""
    num = scores.shape[1] + has_negative
    found = {
        name: balanced_accuracy(confusion(classes, call(scores, thresholds, has_negative), num)) or 0.0
        for name, call in CALLS.items()
    }
    return max(found, key=lambda name: found[name])


def confusion(classes: np.ndarray, called: np.ndarray, num_classes: int) -> np.ndarray:
    """Return how many slides of each class (row) were called each class (column), (classes, classes) int64."""
    return np.bincount(classes * num_classes + called, minlength=num_classes**2).reshape(num_classes, num_classes)


def balanced_accuracy(table: np.ndarray) -> float | None:
    """Return the mean over classes, of those that slides are of, of the share of its slides that are called so."""
    sizes = table.sum(axis=1)
    return float(np.mean(np.diag(table)[sizes > 0] / sizes[sizes > 0])) if sizes.any() else None


def cohens_kappa(table: np.ndarray) -> float | None:
    """Return the agreement beyond chance (Cohen 1960, doi:10.1177/001316446002000104); None where chance agrees fully."""
    total = table.sum()
    expected = float(table.sum(axis=0) @ table.sum(axis=1)) / total**2 if total else 1.0
    return None if expected == 1.0 else (float(np.trace(table)) / total - expected) / (1 - expected)


def class_figures(classes: np.ndarray, probabilities: np.ndarray, called: np.ndarray) -> dict[str, float | None]:
    """Return macro AUC (mean over classes of each against the others), accuracy, balanced accuracy, kappa and the Brier score.

    Args:
        classes: (n,) int, the true ones.
        probabilities: (n, classes).
        called: (n,) int.
    """
    num = probabilities.shape[1]
    table = confusion(classes, called, num)
    aucs = [value for value in class_aucs(classes, probabilities) if value is not None]
    return {
        "macro_auc": float(np.mean(aucs)) if aucs else None,
        "accuracy": float(np.trace(table) / len(classes)) if len(classes) else None,
        "balanced_accuracy": balanced_accuracy(table),
        "kappa": cohens_kappa(table),
        "brier": float(np.mean(((probabilities - np.eye(num)[classes]) ** 2).sum(axis=1))) if len(classes) else None,
    }


def class_aucs(classes: np.ndarray, probabilities: np.ndarray) -> list[float | None]:
    """Return the AUC of each class against the others by its probability; None where no slide, or every one, is of it."""
    return [auc((classes == number).astype(np.int8), its) for number, its in enumerate(probabilities.T)]


def told_of_classes(names: list[str], classes: np.ndarray, probabilities: np.ndarray, called: np.ndarray) -> dict[str, Any]:
    """Return what metrics.json says of each class by name, and the confusion matrix."""
    table = confusion(classes, called, len(names))
    aucs = class_aucs(classes, probabilities)
    return {
        "names": names,
        "auc": dict(zip(names, aucs, strict=True)),
        "num_slides": dict(zip(names, table.sum(axis=1).tolist(), strict=True)),
        "confusion": table.tolist(),
    }
