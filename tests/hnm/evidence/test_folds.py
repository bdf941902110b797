"""Folds by patient, leaks on both sides of the training, and means over folds by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm.evidence.folds import (
    Drawn,
    draw_folds,
    is_same_draw,
    over_folds,
    require_clean_run,
    require_no_leak,
    splits_of_fold,
)
from hnm.run.study import DataConfig
from shards.cohort.source_sites import SplitBy, sites_in_several
from shards.errors import InputError
from shards.files import write_array
from tests.hnm.worlds import tables_only_study

PATIENTS = np.array([f"patient-{s}" for s in range(18)])


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(3, 6))
def test_folds_are_by_patient_stratified_and_whole(seed: int, num_folds: int) -> None:
    random = np.random.default_rng(seed)
    patients = np.array([f"p{number}" for number in random.integers(0, 90, 90)])
    labels = random.integers(-1, 2, 90).astype(np.int8)
    folds = draw_folds(patients, labels, num_folds, seed)
    assert ((folds >= 0) == (labels >= 0)).all()
    assert set(folds) - {-1} == set(range(num_folds))
    used = labels >= 0
    for patient in np.unique(patients[used]):
        assert len(np.unique(folds[used & (patients == patient)])) == 1
    positive = np.unique(patients[labels == 1])
    per_fold = [len(np.unique(patients[(folds == fold) & np.isin(patients, positive)])) for fold in range(num_folds)]
    assert max(per_fold) - min(per_fold) <= 1
    order = random.permutation(90)
    np.testing.assert_array_equal(draw_folds(patients[order], labels[order], num_folds, seed), folds[order])
    for fold in range(num_folds):
        splits = np.array(splits_of_fold(folds, fold, num_folds), object)
        np.testing.assert_array_equal(splits == "test", folds == fold)
        np.testing.assert_array_equal(splits == "validation", folds == (fold + 1) % num_folds)
        assert ((splits == None) == (folds < 0)).all()  # noqa: E711


@pytest.mark.parametrize(
    ("labels", "num_folds", "message"),
    [
        ([1, 0] * 4, 2, r"--folds 2: at least 3.*One fold tests"),
        ([1, 0] * 4, 9, r"--folds 9: there are only 8 patients with a labelled slide.*Give --folds 4"),
        ([1, 1, 1, 0, 0, 0, 0, 0], 4, r"only 3 patients with a positive slide.*Give --folds 3"),
        ([1, 1, 1, 1, 1, 0, 0, -1], 4, r"only 2 patients with a negative slide.*too small to cross-validate"),
    ],
)
def test_more_folds_than_patients_is_a_clear_word(labels: list[int], num_folds: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_folds(np.array([f"p{i}" for i in range(len(labels))]), np.array(labels, np.int8), num_folds, 0)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(3, 5), st.integers(0, 12), st.integers(0, 6), st.integers(0, 4))
def test_patients_with_slides_of_both_labels_fill_folds_of_either(
    seed: int, num_folds: int, num_mixed: int, num_positive: int, num_negative: int
) -> None:
    kinds = [[1, 0]] * num_mixed + [[1]] * num_positive + [[0]] * num_negative
    patients = np.repeat([f"p{i}" for i in range(len(kinds))], [len(its) for its in kinds])
    labels = np.array([label for its in kinds for label in its], np.int8)
    if min(num_mixed + num_positive, num_mixed + num_negative) < num_folds:
        with pytest.raises(InputError, match="every fold needs one"):
            draw_folds(patients, labels, num_folds, seed)
        return
    folds = draw_folds(patients, labels, num_folds, seed)
    for label in (1, 0):
        assert set(folds[labels == label]) == set(range(num_folds))
    assert all(len(set(folds[patients == patient])) == 1 for patient in patients)


def test_folds_drawn_before_are_drawn_again() -> None:
    patients, labels = np.repeat([f"p{i}" for i in range(9)], 2), np.array([1, 0] * 5 + [0] * 8, np.int8)
    folds = draw_folds(patients, labels, 4, seed=7)
    assert folds[::2].tolist() == [0, 0, 3, 1, 2, 2, 1, 3, 0]  # with 4 patients of negative slides only, as before 2026-11-28


def test_a_patient_or_a_patch_on_two_sides_is_a_leak() -> None:
    study = tables_only_study()
    require_no_leak(study, PATIENTS)
    shared = PATIENTS.copy()
    shared[14] = PATIENTS[0]
    with pytest.raises(InputError, match=r"leak: patient 'patient-0' has slides in train and in test"):
        require_no_leak(study, shared)
    with pytest.raises(InputError, match=r"leak: \d+ patches of the encoder's training set belong to validation slides"):
        require_no_leak(tables_only_study(DataConfig(encoder_splits=["train", "validation"])), PATIENTS)
    others = replace(study, encoder_slides=np.ones(18, bool), test=study.test[:0], validation=study.validation[:0])
    with pytest.raises(InputError, match="slides that do not train"):
        require_no_leak(others, PATIENTS)


def test_a_site_on_two_sides_is_a_leak_where_folds_are_by_site() -> None:
    sites = np.array(["a"] * 10 + ["b"] * 4 + ["c"] * 4)
    require_no_leak(tables_only_study(), PATIENTS, sites)
    sites[15] = "b"
    with pytest.raises(InputError, match=r"leak: site 'b' has slides in more than one split"):
        require_no_leak(tables_only_study(), PATIENTS, sites)


@pytest.mark.parametrize(("split_by", "num_folds"), [("site", 3), ("each_site", 6)])
def test_folds_by_site_test_every_slide_once(split_by: SplitBy, num_folds: int) -> None:
    sites = np.repeat([f"site-{site}" for site in range(6)], 7)
    labels = np.array([1, 0, 1, 0, 0, 0, -1] * 6, np.int8)
    drawn = Drawn(np.array([f"s{i}" for i in range(42)]), np.array([f"p{i}" for i in range(42)]), labels, sites)
    folds = drawn.folds(split_by, num_folds, seed=0)
    assert folds.says.startswith("6 sites, ")
    splits = np.array([folds.splits(fold) for fold in range(num_folds)], object)
    assert (splits[:, labels < 0] == None).all()  # noqa: E711
    assert ((splits == "test").sum(axis=0) == (labels >= 0)).all()
    for words in splits:
        used = labels >= 0
        assert sites_in_several(sites[used], words[used]) == []
        for name in ("train", "validation", "test"):
            assert set(labels[words == name]) == {0, 1}
    assert is_same_draw(folds, drawn.folds(split_by, num_folds, seed=0))
    unknown = replace(drawn, sites=np.where(np.arange(42) < 2, "", sites))
    with pytest.raises(InputError, match=r"data.split_by: of 2 of 36 slides the site is not known, such as 's0', 's1'"):
        unknown.folds(split_by, num_folds, seed=0)


def write_round(run: Path) -> Path:
    """Write what a clean round leaves; return its folder."""
    study, folder = tables_only_study(), run / "round-000"
    trains = study.mask_of(study.train)
    write_array(folder / "weights.npy", np.where(trains & (np.arange(len(trains)) % 3 == 0), 1, 0).astype(np.float16))
    write_array(folder / "pseudo_labels.npy", np.where(trains, 0, -1).astype(np.int8))
    write_array(folder / "slide_scores.npy", np.where(np.isin(np.arange(18), study.test), np.nan, 0.5))
    (folder / "mining.json").write_text(json.dumps({}))
    return folder


@pytest.mark.parametrize(
    ("name", "slide", "message"),
    [
        ("weights", 12, r"leak: 1 patches with a sampling weight in .*round-000 belong to validation slides.*'slide-12'"),
        ("weights", 15, "belong to test slides"),
        ("pseudo_labels", 17, r"1 patches with a pseudo label in .* belong to test slides"),
        ("slide_scores", 14, "leak: test slides were scored"),
    ],
)
def test_the_files_of_a_run_are_searched_for_leaks(tmp_path: Path, name: str, slide: int, message: str) -> None:
    folder, study = write_round(tmp_path), tables_only_study()
    assert require_clean_run(tmp_path, study) == -(-study.num_patches_of(study.train) // 3)
    array = np.load(folder / f"{name}.npy")
    array[slide if name == "slide_scores" else study.cohort.patch_bounds[slide]] = 1
    write_array(folder / f"{name}.npy", array)
    with pytest.raises(InputError, match=message):
        require_clean_run(tmp_path, study)


def test_means_over_folds_by_hand() -> None:
    # five folds, mean 0.8, s^2 = 0.00125; variance s^2 (1/5 + 1/3) = 0.000667; t(0.975, 4) = 2.7764
    figure = over_folds([0.75, 0.8, 0.85, 0.8, 0.8], 5)
    half = 2.7764 * np.sqrt(0.00125 * (1 / 5 + 1 / 3))
    assert figure == pytest.approx({"mean": 0.8, "low": 0.8 - half, "high": 0.8 + half, "num": 5}, abs=1e-5)
    assert over_folds([0.5], 5) == {"mean": 0.5, "low": None, "high": None, "num": 1}
