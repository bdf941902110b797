"""What metrics.json says, from tables without images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hnm.evidence.measure import instance_part, patch_kinds, require_scores, round_rows, slide_part, warnings_of
from hnm.run.study import Study
from hnm.statistics.metrics import auc, scores_at, youden_threshold
from shards.errors import InputError
from shards.files import write_array
from tests.hnm.statistics.test_bootstrap import interval_of_metric
from tests.hnm.statistics.test_metrics import random_case
from tests.hnm.worlds import tables_only_study


def with_truth(study: Study, truth: np.ndarray) -> Study:
    return replace(study, cohort=replace(study.cohort, patches=replace(study.cohort.patches, truth=truth)))


def test_slide_figures_come_with_intervals_by_patient() -> None:
    labels, scores = random_case(0, 40)
    scores = 1 / (1 + np.exp(-scores))
    patients = np.repeat([f"p{i}" for i in range(20)], 2)
    part = slide_part(labels, scores, patients, 0.5, seed=3)
    assert part["slide"].items() >= scores_at(labels, scores, 0.5).items()
    assert set(part["slide_intervals"]) == set(part["slide"])
    assert part["slide_auc_interval"] == interval_of_metric(auc, labels, scores, patients, seed=3)._asdict()
    for name, interval in part["slide_intervals"].items():
        assert interval["low"] < part["slide"][name] < interval["high"], name


def test_instance_metrics_need_truth_on_validation_and_test() -> None:
    study = tables_only_study()
    scores = np.random.default_rng(0).random(study.cohort.num_patches)
    truth, validation = study.cohort.patches.truth, study.patches_of(study.validation)
    figures = instance_part(scores, study, seed=2)
    assert figures is not None
    assert figures["threshold"] == youden_threshold(truth[validation], scores[validation])
    assert set(figures["intervals"]) == set(figures) - {"threshold", "intervals"}
    for name, interval in figures["intervals"].items():
        assert interval["low"] < figures[name] < interval["high"], name
    assert figures["intervals"] == instance_part(scores, study, seed=2)["intervals"]  # type: ignore[index]
    for slides in (study.validation, study.test):
        unknown = truth.copy()
        unknown[study.patches_of(slides)] = -1
        assert instance_part(scores, with_truth(study, unknown), seed=2) is None


def test_a_row_per_round_counts_scores_by_kind_of_patch(tmp_path: Path) -> None:
    study = tables_only_study()
    patches, size = study.cohort.patches, study.cohort.num_patches
    scores = np.random.default_rng(1).random(size).astype(np.float32)
    scores[study.patches_of(study.test)] = np.nan
    write_array(tmp_path / "scores.npy", scores)
    decision = {"validation": {"auc": 0.9, "loss": 0.1}, "validation_instance_auc": None}
    decision |= dict.fromkeys(("witness_rate_candidates", "witness_rate_self_paced", "num_hard_negatives", "num_candidates"), 1)
    (row,) = round_rows([decision], [tmp_path], study)
    for part, slides in (("train", study.train), ("validation", study.validation)):
        own, positive = study.mask_of(slides), study.labels[patches.slide] == 1
        counts = {name: np.sum(bins) for name, bins in row["score_histogram"][part].items()}
        assert counts["negative_slides"] == np.sum(own & ~positive)
        assert counts["positive_slides"] == np.sum(own & positive)
        assert counts["positive_patches"] == np.sum(own & (patches.truth == 1)) > 0
        in_first_bin = np.sum(own & ~positive & (scores < 0.05))
        assert row["score_histogram"][part]["negative_slides"][0] == in_first_bin
    assert (patch_kinds(study, study.test)[study.patches_of(study.train)] == -1).all()


def test_nan_scores_and_one_class_are_a_clear_word() -> None:
    study = tables_only_study()
    by_slide, by_patch = np.zeros(study.cohort.num_slides), np.zeros(study.cohort.num_patches)
    by_slide[study.train] = np.nan  # not a test slide's
    require_scores(by_slide, by_patch, study)
    by_patch[study.patches_of(study.test)[-1]] = np.nan
    with pytest.raises(InputError, match=r"1 of 4 test slides.*NaN, such as 'slide-17'.*diverged.*learning rate"):
        require_scores(by_slide, by_patch, study)
    by_slide[study.test[0]] = np.nan
    with pytest.raises(InputError, match=r"2 of 4 test slides.*'slide-14'"):
        require_scores(by_slide, by_patch, study)
    assert warnings_of(study, None) == []
    one_kind = replace(study, test=study.test[study.labels[study.test] == 0])
    (warning,) = warnings_of(one_kind, None)
    assert warning.startswith("no test slide is positive: AUC")
