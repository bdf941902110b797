"""Recalibration: scores that were no probabilities here become such, learned from slides whose label is known.

    scores, labels of a part ──fit──▶ Recalibration ──apply──▶ the remaining scores

Temperature (Guo et al., ICML 2017) divides the logit by one number: it mends scores that are too sure or not sure enough, and
moves 0.5 nowhere. Isotonic regression (Zadrozny and Elkan, KDD 2002) is any increasing curve: it needs more slides.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hnm.statistics.calibration import logits_of
from hnm.statistics.metrics import checked
from shards.errors import InputError

Kind = Literal["temperature", "isotonic"]
BOUNDS = (0.02, 50.0)  # of the temperature: beyond them a score is 0, 1 or 0.5 throughout


@dataclass(frozen=True)
class Recalibration:
    """An increasing curve from scores to probabilities.

    Attributes:
        kind: how it was fitted.
        temperature: what logits are divided by; None of an isotonic one.
        scores, probabilities: the corners of an isotonic one, between which it is straight; empty of a temperature.
    """

    kind: Kind
    temperature: float | None
    scores: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Return (n,) float64 probabilities of (n,) scores in [0, 1]."""
        if self.temperature is None:
            return np.interp(scores, self.scores, self.probabilities)
        return 1 / (1 + np.exp(-logits_of(scores) / self.temperature))

    def as_json(self) -> dict[str, Any]:
        """Return what another program needs to apply it."""
        if self.temperature is not None:
            return {"kind": self.kind, "temperature": self.temperature}
        return {"kind": self.kind, "scores": list(self.scores), "probabilities": list(self.probabilities)}


def recalibration(kind: Kind, labels: np.ndarray, scores: np.ndarray) -> Recalibration:
    """Fit a curve to the slides of a part.

    Args:
        kind: temperature, or isotonic.
        labels: (n,) 1 or 0.
        scores: (n,) float in [0, 1].

    Raises:
        InputError: they are of one class.
    """
    positive, scores = checked(labels, scores)
    if positive.all() or not positive.any():
        raise InputError("recalibration needs slides of both classes")
    if kind == "temperature":
        return Recalibration(kind, _temperature(positive, scores))
    from sklearn.isotonic import IsotonicRegression  # here: it takes a second that most processes need not spend

    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, positive)
    return Recalibration(kind, None, tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist()))


def _temperature(positive: np.ndarray, scores: np.ndarray) -> float:
    """Return the temperature of the highest likelihood within `BOUNDS`; in 1 / temperature it is one hill."""
    from scipy.optimize import minimize_scalar

    signed = np.where(positive, 1.0, -1.0) * logits_of(scores)

    def loss(log_temperature: float) -> float:
        return float(np.mean(np.logaddexp(0, -signed * np.exp(-log_temperature))))

    found = minimize_scalar(loss, bounds=np.log(BOUNDS), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
