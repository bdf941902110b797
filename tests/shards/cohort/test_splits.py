from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.cohort.splits import allot, fold_columns, fold_patients, split_patients

slides = st.lists(st.tuples(st.integers(0, 20), st.sampled_from([0, 1, None])), max_size=60)


@given(slides, st.integers(0, 100))
def test_a_patient_is_never_in_two_splits(rows: list[tuple[int, int | None]], seed: int) -> None:
    patients = [f"P{patient}" for patient, _ in rows]
    splits = split_patients(patients, [label for _, label in rows], seed=seed)
    assert len(set(zip(patients, splits, strict=True))) == len(set(patients))


@given(slides, st.randoms(use_true_random=False))
def test_the_order_of_the_slides_does_not_matter(rows: list[tuple[int, int | None]], random: object) -> None:
    shuffled = rows.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    def split_of(some: list[tuple[int, int | None]]) -> dict[str, str]:
        patients = [f"P{patient}" for patient, _ in some]
        return dict(zip(patients, split_patients(patients, [label for _, label in some]), strict=True))

    assert split_of(rows) == split_of(shuffled)


def test_shares_hold_in_each_stratum() -> None:
    labels = [1] * 50 + [0] * 100
    splits = split_patients([f"P{number}" for number in range(150)], labels)
    assert Counter(zip(splits, labels, strict=True)) == {
        ("train", 1): 30,
        ("validation", 1): 10,
        ("test", 1): 10,
        ("train", 0): 60,
        ("validation", 0): 20,
        ("test", 0): 20,
    }


def test_a_seed_repeats_its_draw_and_another_differs() -> None:
    patients = [f"P{number}" for number in range(30)]
    labels = [number % 2 for number in range(30)]
    assert split_patients(patients, labels, seed=1) == split_patients(patients, labels, seed=1)
    assert split_patients(patients, labels, seed=1) != split_patients(patients, labels, seed=2)


def test_golden_draw() -> None:
    splits = split_patients([f"P{number}" for number in range(10)], [1, 0] * 5, seed=0)
    assert " ".join(word[:2] for word in splits) == "tr tr va tr tr te te va tr tr"


def test_a_share_of_zero_gives_none() -> None:
    splits = split_patients(["A", "B", "C", "D"], [1, 0, 1, 0], validation_share=0.5, test_share=0.0)
    assert Counter(splits) == {"train": 2, "validation": 2}


@pytest.mark.parametrize(
    ("num_items", "expected"), [(0, (0, 0, 0)), (1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (10, (6, 2, 2))]
)
def test_allot_by_hand(num_items: int, expected: tuple[int, ...]) -> None:
    assert tuple(allot(num_items, np.array([0.6, 0.2, 0.2]))) == expected


@given(st.integers(0, 1000), st.floats(0, 0.4), st.floats(0, 0.4))
def test_allot_gives_out_everything(num_items: int, second: float, third: float) -> None:
    shares = np.array([1 - second - third, second, third])
    counts = allot(num_items, shares)
    assert counts.sum() == num_items
    assert np.all(counts >= 0)
    assert np.all(np.abs(counts - num_items * shares) <= 2)


def test_folds_balance_every_label_and_each_patient_is_tested_once() -> None:
    random = np.random.default_rng(0)
    labels = [(int(random.random() < 0.15), int(random.random() < 0.5)) for _ in range(203)] + [(None, None)] * 21
    fold_of = np.array(fold_patients(labels, 5, seed=3))
    assert np.ptp(np.bincount(fold_of)) <= 1
    first, second = (np.array([-1 if its[0] is None else its[column] for its in labels]) for column in range(2))
    assert np.ptp([(first[fold_of == fold] == 1).sum() for fold in range(5)]) <= 1
    assert np.ptp([(first[fold_of == fold] == -1).sum() for fold in range(5)]) <= 1
    assert np.ptp([(second[fold_of == fold] == 1).sum() for fold in range(5)]) <= 2
    columns = np.array([fold_columns(fold, 5) for fold in fold_of])
    assert ((columns == "test").sum(axis=1) == 1).all()
    assert ((columns == "validation").sum(axis=1) == 1).all()
    assert fold_patients(labels, 5, seed=3) != fold_patients(labels, 5, seed=4)


@given(
    labels=st.lists(st.tuples(st.sampled_from([0, 1, None]), st.sampled_from([0, 1, None])), min_size=1, max_size=60),
    num_folds=st.integers(3, 7),
    seed=st.integers(0, 99),
)
def test_a_patient_is_in_one_fold_and_folds_are_even(
    labels: list[tuple[int | None, ...]], num_folds: int, seed: int
) -> None:
    fold_of = fold_patients(labels, num_folds, seed)
    assert len(fold_of) == len(labels)  # one fold each, so all slides of a patient share their columns
    assert np.ptp(np.bincount(fold_of, minlength=num_folds)) <= 1
    positives = np.bincount(
        [fold for fold, its in zip(fold_of, labels, strict=True) if its[0] == 1], minlength=num_folds
    )
    assert np.ptp(positives) <= 1
