"""Which slides play which part, and thinning to a witness rate."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm.run.study import DataConfig, open_study
from hnm.run.witness_rate import thin_to_witness_rate
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from tests.hnm.worlds import tables_only_cohort, tables_only_study


def with_column(cohort: Cohort, name: str, values: list[object]) -> Cohort:
    table = cohort.slides
    if name in table.column_names:
        return replace(cohort, slides=table.set_column(table.column_names.index(name), name, pa.array(values)))
    return replace(cohort, slides=table.append_column(name, pa.array(values)))


def without_patches_of(cohort: Cohort, slide: int) -> Cohort:
    return cohort.restricted(cohort.patches.slide != slide)


def test_parts_follow_the_split_column() -> None:
    study = tables_only_study()
    assert study.train.tolist() == list(range(10))
    assert study.validation.tolist() == [10, 11, 12, 13]
    assert study.test.tolist() == [14, 15, 16, 17]
    assert study.embedded_slides.tolist() == list(range(14))
    np.testing.assert_array_equal(np.flatnonzero(study.encoder_slides), study.train)
    np.testing.assert_array_equal(study.cohort.patches.slide[study.patches_of(study.test)].astype(int) >= 14, True)


def test_the_encoder_may_learn_from_validation_slides_too() -> None:
    study = tables_only_study(DataConfig(encoder_splits=["train", "validation"]))
    np.testing.assert_array_equal(np.flatnonzero(study.encoder_slides), study.embedded_slides)
    np.testing.assert_array_equal(study.encoder_patches, study.patches_of(study.embedded_slides))


def test_slides_without_label_or_patches_or_split_take_no_part() -> None:
    labels: list[object] = [None, *(s % 2 for s in range(1, 18))]
    splits: list[object] = ["train", "train", None, "", *["train"] * 6, *["validation"] * 4, *["test"] * 4]
    cohort = with_column(with_column(tables_only_cohort(), "label", labels), "split", splits)
    study = open_study(without_patches_of(cohort, 4), DataConfig(), 0)
    assert study.train.tolist() == [1, 5, 6, 7, 8, 9]
    assert study.labels[0] == -1
    assert not study.encoder_slides[[0, 2, 3, 4]].any()


def test_other_columns_can_be_chosen() -> None:
    cohort = with_column(tables_only_cohort(), "label_EGFR", [1 - s % 2 for s in range(18)])
    study = open_study(cohort, DataConfig(label_column="label_EGFR"), 0)
    assert study.labels[0] == 1
    with pytest.raises(InputError, match=r"no column 'label_KRAS'.*data\.label_column.*label_EGFR"):
        open_study(cohort, DataConfig(label_column="label_KRAS"), 0)
    with pytest.raises(InputError, match=r"no column 'fold'.*data\.split_column"):
        open_study(cohort, DataConfig(split_column="fold"), 0)


@pytest.mark.parametrize(("split", "slides"), [("train", range(10)), ("validation", range(10, 14))])
@pytest.mark.parametrize(("value", "word"), [(0, "positive"), (1, "negative")])
def test_a_split_of_one_kind_is_refused(split: str, slides: range, value: int, word: str) -> None:
    labels: list[object] = [value if s in slides else s % 2 for s in range(18)]
    with pytest.raises(InputError, match=rf"the {split} split has no {word} slide.*data\.split_column"):
        open_study(with_column(tables_only_cohort(), "label", labels), DataConfig(), 0)


@settings(max_examples=40)
@given(st.floats(0.02, 0.98), st.integers(0, 20))
def test_thinning_reaches_the_rate_to_one_patch_and_drops_of_one_kind_only(rate: float, seed: int) -> None:
    cohort = tables_only_cohort(seed)
    labels = cohort.labels()
    keep = thin_to_witness_rate(cohort, labels, rate, seed)
    np.testing.assert_array_equal(keep, thin_to_witness_rate(cohort, labels, rate, seed))
    for slide in range(cohort.num_slides):
        first, stop = cohort.patch_bounds[slide : slide + 2]
        truth, kept = cohort.patches.truth[first:stop] == 1, keep[first:stop]
        if labels[slide] == 0:
            assert kept.all()
            continue
        positive, negative = np.count_nonzero(truth & kept), np.count_nonzero(~truth & kept)
        assert positive >= 1
        assert kept[truth].all() or kept[~truth].all()
        assert abs(positive - rate * (positive + negative)) <= 1


def test_thinning_needs_truth() -> None:
    cohort = tables_only_cohort()
    with pytest.raises(InputError, match=r"slide-1 .*data\.witness_rate"):
        thin_to_witness_rate(
            replace(cohort, patches=replace(cohort.patches, truth=np.full(cohort.num_patches, -1, np.int8))),
            cohort.labels(), 0.5, 0,
        )  # fmt: skip


def test_a_thinned_study_counts_its_patches_anew() -> None:
    study = tables_only_study(DataConfig(witness_rate=0.1))
    assert study.cohort.num_patches < tables_only_cohort().num_patches
    assert study.patches_of(np.arange(18)).tolist() == list(range(study.cohort.num_patches))
