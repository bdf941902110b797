"""Split conformal sets: a model that says "not sure" so often that what it does say is right as often as was asked for.

    scores of the calibrating slides of each class ──▶ how unlike its class a slide may be ──▶ the classes a new slide may be

A slide's set holds each class that it is not too unlike: {0} or {1} is an answer, both or none is "not sure". The true class is
in the set with probability 1 - alpha or more, in each class on its own, whatever the model (label-conditional; Vovk, ACML 2012),
if slides to come are like the calibrating ones.
"""

from typing import NamedTuple

import numpy as np

from shards.seeding import numpy_generator

ALPHAS = (0.0, 0.5)  # outside of these there is nothing to ask for


class Limits(NamedTuple):
    """A class is in the set of a slide that is at most so unlike it, 0 to 1; infinite: of every slide.

    Attributes:
        negative: limit of the score.
        positive: limit of 1 - score.
        num_negative, num_positive: slides that they were found with.
    """

    negative: float
    positive: float
    num_negative: int
    num_positive: int


def least_slides(alpha: float) -> int:
    """Return how many calibrating slides a class needs for a finite limit: 9 at alpha 0.1."""
    return int(np.ceil((1 - alpha) / alpha - 1e-9))


def conformal_limits(labels: np.ndarray, scores: np.ndarray, alpha: float) -> Limits:
    """Return the limits with which a new slide's set lacks its class with probability alpha at most.

    Args:
        labels: (n,) 1 or 0 of the calibrating slides, one of each patient (see `one_of_each_patient`).
        scores: (n,) float in [0, 1].
        alpha: how often the true class may be missing.
    """
    negative, positive = scores[labels == 0], 1 - scores[labels == 1]
    return Limits(_limit(negative, alpha), _limit(positive, alpha), len(negative), len(positive))


def conformal_sets(scores: np.ndarray, limits: Limits) -> np.ndarray:
    """Return which classes each slide may be, (n, 2) bool: negative, positive."""
    return np.stack([scores <= limits.negative, 1 - scores <= limits.positive], axis=1)


def one_of_each_patient(labels: np.ndarray, patients: np.ndarray, seed: int) -> np.ndarray:
    """Return row numbers, a random one of each patient and class: slides of one patient are not exchangeable with others'.

    Args:
        labels: (n,) 1 or 0.
        patients: (n,) of any sortable type.
        seed: the same seed gives the same rows.
    """
    order = numpy_generator(seed, "one slide a patient").permutation(len(labels))
    _, number = np.unique(patients, return_inverse=True)
    _, first = np.unique((2 * number + labels)[order], return_index=True)
    return np.sort(order[first])


def _limit(unlike: np.ndarray, alpha: float) -> float:
    place = int(np.ceil((len(unlike) + 1) * (1 - alpha) - 1e-9))  # one of the n + 1, the new slide among them
    return float(np.sort(unlike)[place - 1]) if place <= len(unlike) else float("inf")
