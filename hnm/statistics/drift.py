"""Drift: do values of slides seen elsewhere come from where those came from that a model was made with?"""

from typing import NamedTuple

import numpy as np


class Shift(NamedTuple):
    """How far values have moved.

    Attributes:
        median_then, median_now: of the values.
        in_deviations: difference of the means in standard deviations of then; None where those values are all one.
        distance: of Kolmogorov and Smirnov, 0 to 1: the largest difference of both cumulative shares.
        p: of such a distance or a larger one by chance.
    """

    median_then: float
    median_now: float
    in_deviations: float | None
    distance: float
    p: float


def shift_of(
    then: np.ndarray, now: np.ndarray, num_then: int | None = None, num_now: int | None = None
) -> Shift | None:
    """Compare two samples by the test of Kolmogorov and Smirnov; None where one is empty.

    Slides of one patient resemble each other. The p-value is that of so many independent values as there are patients:
    with one slide each it is the usual one (asymptotic), with more it is too large rather than too small.

    Args:
        then: (m,) float.
        now: (n,) float.
        num_then: patients that `then` is of; None: m.
        num_now: patients that `now` is of; None: n.
    """
    if len(then) == 0 or len(now) == 0:
        return None
    from scipy.special import kolmogorov  # here: it takes a second that most processes need not spend

    known = np.concatenate([then, now])
    shares = [np.searchsorted(np.sort(values), known, side="right") / len(values) for values in (then, now)]
    distance = float(np.abs(shares[0] - shares[1]).max())
    m, n = num_then or len(then), num_now or len(now)
    deviation = float(np.std(then))
    moved = (float(np.mean(now)) - float(np.mean(then))) / deviation if deviation > 0 else None
    p = float(kolmogorov(distance * np.sqrt(m * n / (m + n))))
    return Shift(float(np.median(then)), float(np.median(now)), moved, distance, p)


def evenly_chosen(values: np.ndarray, most: int) -> list[float]:
    """Return at most `most` of the sorted values, evenly spread, smallest and largest among them: their distribution."""
    ordered = np.sort(np.asarray(values, np.float64))
    places = np.unique(np.linspace(0, len(ordered) - 1, min(most, len(ordered))).round().astype(np.int64))
    return [float(value) for value in ordered[places].round(6)] if len(ordered) else []
