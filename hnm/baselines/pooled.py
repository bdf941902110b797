"""`mean` and `meanstd`: a bag is the mean (and the standard deviation) of its features; a logistic regression tells bags apart.

    (n_i, dim) ── mean [, std] ──▶ (B, dim or 2 dim) ── standardised ──▶ logistic regression, C chosen on validation bags
"""

from dataclasses import dataclass

import numpy as np

from hnm.baselines.bags import Bags, log_loss, require_bags, sigmoid

# Inverse strength of the L2 penalty on standardised features; beyond 1 some dozens of bags are separated by any direction.
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


@dataclass(frozen=True)
class Pooled:
    """Pooling and a linear head.

    Attributes:
        with_std: whether the standard deviation over a bag's patches stands beside their mean.
        strengths: among which the validation bags choose, see `STRENGTHS`.
    """

    with_std: bool
    strengths: tuple[float, ...] = STRENGTHS

    def fit(self, train: Bags, validation: Bags, seed: int) -> "FittedPooled":
        """Fit the head for each strength of the penalty; that of lowest validation loss stays. Nothing is drawn."""
        from sklearn.linear_model import LogisticRegression  # here: importing it takes a second

        require_bags(train, validation)
        pooled = pool(train, self.with_std)
        scale = pooled.std(0)
        mean, scale = pooled.mean(0), np.where(scale > 0, scale, 1)
        rows, judged = (pooled - mean) / scale, (pool(validation, self.with_std) - mean) / scale
        best: tuple[float, FittedPooled] | None = None
        for strength in self.strengths:
            head = LogisticRegression(C=strength, max_iter=1000, tol=1e-6).fit(rows, train.labels)
            weights = head.coef_[0] / scale
            fitted = FittedPooled(weights, float(head.intercept_[0] - weights @ mean), self.with_std, strength)
            loss = log_loss(validation.labels, head.decision_function(judged))
            if best is None or loss < best[0]:
                best = loss, fitted
        assert best is not None
        return best[1]


@dataclass(frozen=True)
class FittedPooled:
    """A linear head on pooled features as they come, not standardised.

    Attributes:
        weights: (dim or 2 dim,) float64.
        bias: of the logit.
        with_std: see `Pooled`.
        strength: C of the logistic regression.
    """

    weights: np.ndarray
    bias: float
    with_std: bool
    strength: float

    @property
    def chosen(self) -> dict[str, float]:
        """The strength of the penalty."""
        return {"C": self.strength}

    def slide_scores(self, bags: Bags) -> np.ndarray:
        """Return (B,) float32 probabilities."""
        return sigmoid(pool(bags, self.with_std) @ self.weights + self.bias)

    def patch_scores(self, bags: Bags) -> list[np.ndarray] | None:
        """Return the patches' logits: a bag's logit is their mean, for head and mean commute; None with `with_std`."""
        if self.with_std:
            return None
        return [(bag @ self.weights + self.bias).astype(np.float32) for bag in bags.features]


def pool(bags: Bags, with_std: bool) -> np.ndarray:
    """Return (B, dim) float64 means of the features of each bag, or (B, 2 dim) with their standard deviations."""
    means = np.stack([bag.mean(0, dtype=np.float64) for bag in bags.features])
    if not with_std:
        return means
    return np.concatenate([means, np.stack([bag.std(0, dtype=np.float64) for bag in bags.features])], axis=1)
