"""Train, validation and test: drawn by patient, with the same share of positive patients in each.

    patient_ids (S,), labels (S,) ──by patient──▶ strata (positive, negative, unknown) ──shuffle, cut──▶ split (S,)

The three strata are cut separately, so each split has its share of each.
"""

from collections.abc import Sequence

import numpy as np

from shards.cohort.slides import SPLITS
from shards.seeding import numpy_generator


def split_patients(
    patient_ids: Sequence[str],
    labels: Sequence[int | None],
    *,
    validation_share: float = 0.2,
    test_share: float = 0.2,
    seed: int = 0,
) -> list[str]:
    """Draw a split for each slide; all slides of a patient get the same one.

    The draw depends on the set of patients and their labels, not on the order of the slides.

    Args:
        patient_ids: (S,) whose slide it is.
        labels: (S,) 1, 0 or None (unknown). A patient with a positive slide is a positive patient.
        validation_share: share of the patients.
        test_share: share of the patients; the rest is for training.
        seed: another seed, another draw.

    Returns:
        (S,) "train", "validation" or "test".
    """
    stratum_of: dict[str, int] = {}
    for patient, label in zip(patient_ids, labels, strict=True):
        stratum_of[patient] = max(stratum_of.get(patient, -1), -1 if label is None else label)
    shares = np.array([1 - validation_share - test_share, validation_share, test_share])
    split_of: dict[str, str] = {}
    for stratum in (1, 0, -1):
        patients = sorted(patient for patient, its in stratum_of.items() if its == stratum)
        numpy_generator(seed, "split", stratum).shuffle(patients)
        words = np.repeat(SPLITS, allot(len(patients), shares))
        split_of.update(zip(patients, words.tolist(), strict=True))
    return [split_of[patient] for patient in patient_ids]


def allot(num_items: int, shares: np.ndarray) -> np.ndarray:
    """Cut `num_items` into whole parts nearest to `shares`; a part with a share gets at least one if there are enough.

    Args:
        num_items: how many there are.
        shares: (P,) float, not negative, summing to 1.

    Returns:
        (P,) int64, summing to `num_items`.
    """
    exact = num_items * shares
    counts = np.floor(exact + 1e-9).astype(np.int64)
    largest_remainders = np.argsort(counts - exact, kind="stable")
    counts[largest_remainders[: num_items - counts.sum()]] += 1
    for part in np.flatnonzero((counts == 0) & (shares > 1e-9)):
        if counts.max() > 1:  # a validation set without a positive patient has no AUC
            counts[counts.argmax()] -= 1
            counts[part] = 1
    return counts


def fold_patients(labels: Sequence[tuple[int | None, ...]], num_folds: int, seed: int) -> list[int]:
    """Deal patients out to folds, so that each has nearly the same number of positives of every label.

    Patients are put in order of their labels, at random among equals, and dealt like cards. The first label is balanced
    to one patient, later ones less exactly.

    Args:
        labels: of each patient, by label column: 1, 0 or None (unknown); patients in an order of their own.
        num_folds: how many.
        seed: another seed, another draw.

    Returns:
        The fold of each patient, 0 to num_folds - 1.
    """
    draw = numpy_generator(seed, "folds").permutation(len(labels))
    ranks = [tuple(-1 if value is None else value for value in its) for its in labels]
    order = sorted(range(len(labels)), key=lambda patient: (*(-rank for rank in ranks[patient]), draw[patient]))
    fold_of = [0] * len(labels)
    for place, patient in enumerate(order):
        fold_of[patient] = place % num_folds
    return fold_of


def fold_columns(fold: int, num_folds: int) -> list[str]:
    """Return a patient's split in each fold: test in his own, validation in the one before, else train."""
    return [
        "test" if column == fold else "validation" if (column + 1) % num_folds == fold else "train"
        for column in range(num_folds)
    ]
