"""`instance`: a logistic regression on single patches, refitted again and again to its own best of each positive bag.

    patches ── standardised ── PCA ──▶ logistic regression, first: all patches of positive bags against all of negative ones
                                          ▲                                                              │
                                          └── then: the best share of each positive bag against them ◀───┘ 4 times

A bag's logit is the mean of its best share. Share and refit are those with which the validation bags are told apart best.
This is mi-SVM's idea (Andrews et al., NeurIPS 2002) with a fixed share of positive patches.
"""

from dataclasses import dataclass

import numpy as np

from hnm.baselines.bags import Bags, log_loss, require_bags, sigmoid
from hnm.statistics.metrics import auc

SHARES = (0.02, 0.05, 0.1, 0.2, 0.5)
NUM_FITS = 5
FIRST_STRENGTH, STRENGTH = 0.003, 0.03  # C: at first the labels are those of bags, most of them wrong for patches


@dataclass(frozen=True)
class Instances:
    """Instance-level logistic regression."""

    def fit(self, train: Bags, validation: Bags, seed: int) -> "FittedInstances":
        """Fit for each share; share and refit of highest validation AUC stay, of equals the lowest loss, then the first."""
        require_bags(train, validation)
        components = train.components
        positives = [components.of(bag) for bag in train.of_label(1)]
        negatives = np.concatenate([components.of(bag) for bag in train.of_label(0)])
        first = _fit(np.concatenate(positives), negatives, FIRST_STRENGTH)
        found = []
        for share in SHARES:
            weights, bias = first
            for number in range(NUM_FITS):
                if number:
                    best = np.concatenate([_best(bag, bag @ weights, share) for bag in positives])
                    weights, bias = _fit(best, negatives, STRENGTH)
                head = components.directions @ weights  # on the features as they come
                fitted = FittedInstances(head, float(bias - components.mean @ head), share, number)
                logits = fitted.bag_logits(validation)
                quality = auc(validation.labels, logits), -log_loss(validation.labels, logits)
                found.append((quality, fitted))
        return max(found, key=lambda one: one[0])[1]


@dataclass(frozen=True)
class FittedInstances:
    """A linear head on single patches.

    Attributes:
        weights: (dim,) float64, of the features as they come.
        bias: of the logit.
        share: of a bag's patches, the best of which are its own.
        refits: how often the head was fitted to its own best.
    """

    weights: np.ndarray
    bias: float
    share: float
    refits: int

    @property
    def chosen(self) -> dict[str, float]:
        """Share and number of refits."""
        return {"share": self.share, "refits": self.refits}

    def slide_scores(self, bags: Bags) -> np.ndarray:
        """Return (B,) float32, the sigmoid of the mean logit of each bag's best share."""
        return sigmoid(self.bag_logits(bags))

    def bag_logits(self, bags: Bags) -> np.ndarray:
        """Return (B,) float64 mean logits of each bag's best share."""
        logits = self.patch_scores(bags)
        return np.array([_best(its, its, self.share).mean(dtype=np.float64) for its in logits])

    def patch_scores(self, bags: Bags) -> list[np.ndarray]:
        """Return the patches' logits."""
        return [(bag @ self.weights + self.bias).astype(np.float32) for bag in bags.features]


def _fit(positives: np.ndarray, negatives: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """Return weights (k,) and bias of a logistic regression of rows (., k), both kinds with equal weight."""
    from sklearn.linear_model import LogisticRegression  # here, as in hnm.baselines.components

    rows = np.concatenate([positives, negatives])
    labels = np.repeat([1, 0], [len(positives), len(negatives)])
    head = LogisticRegression(C=strength, class_weight="balanced", solver="newton-cholesky", max_iter=100)
    head.fit(rows, labels)
    return head.coef_[0].astype(np.float64), float(head.intercept_[0])


def _best(values: np.ndarray, by: np.ndarray, share: float) -> np.ndarray:
    """Return the share of `values` (n, ...), at least one, of which `by` (n,) is highest; of equals the first."""
    return values[np.argsort(-by, kind="stable")[: max(1, round(share * len(values)))]]
