"""Bags of frozen features in memory, and what a baseline fitted on them can say: pure arrays, no files, no ranks."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from hnm.baselines.components import Components, fit_components
from shards.errors import InputError


@dataclass(frozen=True)
class Bags:
    """The features of some slides.

    Attributes:
        features: by bag (n_i, dim) float32, n_i at least 1.
        labels: (B,) int8, 1 or 0.
    """

    features: tuple[np.ndarray, ...]
    labels: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """(B,) int64, the patches of each bag."""
        return np.array([len(bag) for bag in self.features], np.int64)

    @cached_property
    def rows(self) -> np.ndarray:
        """(n, dim) float32, the patches of all bags, one bag after another."""
        return np.concatenate(self.features)

    @cached_property
    def components(self) -> Components:
        """Principal components of these patches: fitted once, for several baselines ask."""
        return fit_components(self.rows)

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """Return values (n, ...) of all patches by bag."""
        return np.split(values, np.cumsum(self.sizes)[:-1])

    def of_label(self, label: int) -> list[np.ndarray]:
        """Return the features of the bags with a label."""
        return [bag for bag, its in zip(self.features, self.labels, strict=True) if its == label]


class Fitted(Protocol):
    """A baseline fitted on training bags; what it leaves open was chosen on validation bags.

    Attributes:
        chosen: what was chosen, by name, such as {"C": 0.01}.
    """

    @property
    def chosen(self) -> dict[str, float]: ...

    def slide_scores(self, bags: Bags) -> np.ndarray:
        """Return (B,) float32 in [0, 1], higher = more positive; comparable between bags, not calibrated."""

    def patch_scores(self, bags: Bags) -> list[np.ndarray] | None:
        """Return by bag (n_i,) float32 logits, of which the order counts; None if the baseline says nothing of a patch."""


class Baseline(Protocol):
    """A way to tell bags apart on frozen features."""

    def fit(self, train: Bags, validation: Bags, seed: int) -> Fitted:
        """Fit on the training bags and choose on the validation bags; the same numbers give the same result.

        Raises:
            InputError: the training or the validation bags are not of both labels, or a feature is not finite.
        """


def require_bags(train: Bags, validation: Bags) -> None:
    """Refuse bags that no baseline can be fitted on.

    Raises:
        InputError: naming which, and the remedy.
    """
    for name, bags in (("training", train), ("validation", validation)):
        for label, word in ((1, "positive"), (0, "negative")):
            if not np.any(bags.labels == label):
                raise InputError(f"no {name} bag is {word}: a baseline needs both kinds. Choose another split")
        broken = [i for i, bag in enumerate(bags.features) if len(bag) == 0 or not np.isfinite(bag).all()]
        if broken:
            raise InputError(
                f"{name} bag {broken[0]} (the first of {len(broken)}) is empty or holds a feature that is no finite number. "
                "Embed the slides again"
            )


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the sigmoid of logits, float32."""
    from scipy.special import expit

    scores: np.ndarray = expit(np.asarray(logits, np.float64)).astype(np.float32)
    return scores


def log_loss(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the mean cross-entropy of logits (B,) against labels (B,), both kinds of bags with equal weight."""
    losses = np.logaddexp(0, np.where(labels == 1, -logits, logits))
    return float((losses[labels == 1].mean() + losses[labels == 0].mean()) / 2)
