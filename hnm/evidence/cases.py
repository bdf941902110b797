"""Slides of another cohort that an exported model is measured on, and their parts: subgroups, patients, a part to learn from.

Pure functions of arrays; `hnm.evidence.validate` measures what they return.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Self

import numpy as np

from hnm.evidence.patients import gather_patients
from hnm.statistics.thresholds import PatientScore
from shards.errors import InputError
from shards.seeding import numpy_generator

MAX_GROUPS = 20
QUARTERS = (0.25, 0.5, 0.75)
NO_VALUE = "(empty)"
LEAST_PATIENTS = 5  # of each class, in the part that is learned from and in the one that is measured


@dataclass(frozen=True)
class Cases:
    """Slides with a label that the model has not seen.

    Attributes:
        slide_ids: (n,) str.
        patients: (n,) str.
        labels: (n,) int8, 1 or 0.
        scores: (n,) float64 in [0, 1]; 0 of a missed slide.
        missed: (n,) bool, positive slides without a patch: nothing of them was found.
        columns: by name the (n,) str cells of the table of slides.
    """

    slide_ids: np.ndarray
    patients: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    missed: np.ndarray
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, rows: np.ndarray) -> Self:
        """Return the slides of a mask (n,) bool or of row numbers."""
        arrays = {name: getattr(self, name)[rows] for name in ("slide_ids", "patients", "labels", "scores", "missed")}
        return replace(self, **arrays, columns={name: cells[rows] for name, cells in self.columns.items()})


def groups_of(cells: np.ndarray, column: str) -> list[tuple[str, np.ndarray]]:
    """Return the groups of a column, sorted: each value with its mask (n,) bool; of many numbers the four quarters.

    Args:
        cells: (n,) str.
        column: its name, for the error.

    Raises:
        InputError: it has more than `MAX_GROUPS` values that are no numbers.
    """
    values = np.unique(cells)
    if len(values) <= MAX_GROUPS:
        return [(str(value) or NO_VALUE, cells == value) for value in values]
    numbers = _numbers(cells)
    if numbers is None:
        raise InputError(
            f"--by {column}: {len(values)} values, such as {', '.join(map(repr, values[:3].tolist()))}: too many to be groups "
            f"(at most {MAX_GROUPS}, or numbers). Give a column of fewer"
        )
    known = ~np.isnan(numbers)
    edges = [-np.inf, *np.unique(np.quantile(numbers[known], QUARTERS)).tolist(), np.inf]
    groups = []
    for low, high in pairwise(edges):
        name = (
            f"above {low:g}" if high == np.inf else f"to {high:g}" if low == -np.inf else f"above {low:g} to {high:g}"
        )
        groups.append((name, known & (numbers > low) & (numbers <= high)))
    groups.append((NO_VALUE, ~known))
    return [(name, rows) for name, rows in groups if rows.any()]


def _numbers(cells: np.ndarray) -> np.ndarray | None:
    """Return (n,) float64, NaN of an empty cell; None where a cell is no number."""
    try:
        return np.array([float(cell) if cell else np.nan for cell in cells.tolist()])
    except ValueError:
        return None


def by_patient(cases: Cases, how: PatientScore) -> tuple[Cases, int]:
    """Return a row for each patient, positive if a slide is, as `hnm evaluate` does; and how many have slides of both labels.

    Args:
        cases: the slides.
        how: `EvaluateConfig.patient_score`.
    """
    its = gather_patients(cases.patients, cases.labels, cases.scores, how)
    missed = np.zeros(len(its.names), bool)
    return Cases(its.names, its.names, its.labels, its.scores, missed), its.num_mixed


def choose_part(labels: np.ndarray, patients: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return (n,) bool: the slides of a random `share` of the patients with a positive slide, and of those without.

    The draw depends on the patients' names and the seed, and not on the order of the table.

    Raises:
        InputError: a class has fewer than `LEAST_PATIENTS` patients in the part, or in what remains.
    """
    names, number = np.unique(patients, return_inverse=True)
    is_positive = np.bincount(number, weights=labels == 1) > 0
    chosen = np.zeros(len(names), bool)
    for kind in (True, False):
        its = np.flatnonzero(is_positive == kind)
        order = numpy_generator(seed, "validation part", int(kind)).permutation(its)
        chosen[order[: round(share * len(its))]] = True
    part = chosen[number]
    for rows, where in ((part, "in the part"), (~part, "in what remains")):
        counts = {
            word: len(np.unique(patients[rows & (labels == label)]))
            for label, word in ((1, "positive"), (0, "negative"))
        }
        for word, count in counts.items():
            if count < LEAST_PATIENTS:
                raise InputError(
                    f"--part {share:g}: {count} patients with a {word} slide {where}, and at least {LEAST_PATIENTS} are needed. "
                    f"The cohort has {len(np.unique(patients[labels == (word == 'positive')]))} such patients: choose another "
                    "share, add slides, or leave --part, --recalibrate and --alpha out"
                )
    return part
