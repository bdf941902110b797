"""Labels of several targets and of classes: what is read, who takes part, and each mistake has its word."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from hnm.run.study import DataConfig, open_study
from hnm.run.targets import targets_of_words
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from tests.hnm.worlds import tables_only_cohort

WORDS = ["normal", "adeno", "squamous"]


def with_columns(**columns: list[object]) -> Cohort:
    """18 slides: 10 train, 4 validate, 4 test."""
    cohort = tables_only_cohort()
    table = cohort.slides
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.string() if isinstance(values[0], str) else pa.int8()))
    return replace(cohort, slides=table)


def words_of_slides() -> list[object]:
    return [WORDS[slide % 3] for slide in range(18)]


def test_a_slide_without_a_label_takes_no_part_in_that_target() -> None:
    other: list[object] = [None if slide in (0, 12, 15) else slide // 2 % 2 for slide in range(18)]
    study = open_study(with_columns(label_b=other), DataConfig(targets=["label", "label_b"]), 0)
    assert study.targets is not None
    assert study.targets.names == ("label", "label_b")
    assert len(study.train) == 10
    assert len(study.validation) == 4
    part = study.of_target(1)
    assert part.train.tolist() == list(range(1, 10))
    assert part.validation.tolist() == [10, 11, 13]
    assert part.test.tolist() == [14, 16, 17]
    assert not part.encoder_slides[0]
    assert study.encoder_slides[0]
    assert (part.cohort.patches.truth == -1).all()  # of which target it is, nobody says
    np.testing.assert_array_equal(part.kinds >= 0, part.mask_of(part.train))
    assert study.slide_groups[1] != study.slide_groups[3]  # the same first label, another second one
    assert part.cohort.fingerprint != ""
    assert study.of_target(0).targets is None


def test_one_target_is_the_label_column() -> None:
    cohort = with_columns(label_b=[slide // 2 % 2 for slide in range(18)])
    one, same = (open_study(cohort, data, 0) for data in (DataConfig(targets=["label_b"]), DataConfig(label_column="label_b")))
    assert one.targets is None
    np.testing.assert_array_equal(one.labels, same.labels)


def test_classes_are_targets_against_the_rest() -> None:
    cohort = with_columns(subtype=words_of_slides())
    study = open_study(cohort, DataConfig(label_column="subtype", negative_class="normal"), 0)
    assert study.targets is not None
    assert study.targets.names == ("adeno", "squamous")
    assert study.targets.are_classes
    np.testing.assert_array_equal(study.targets.labels[0], [int(word == "adeno") for word in words_of_slides()])
    np.testing.assert_array_equal(study.labels, [int(word != "normal") for word in words_of_slides()])
    assert open_study(cohort, DataConfig(label_column="subtype"), 0).targets.names == ("adeno", "normal", "squamous")  # type: ignore[union-attr]
    binary = open_study(cohort, DataConfig(label_column="subtype", classes=["adeno"], negative_class="normal"), 0)
    assert binary.targets is None
    assert set(binary.labels.tolist()) == {1, 0, -1}


def test_mistakes_have_their_words() -> None:
    rare: list[object] = ["normal" if slide % 2 else "adeno" if slide != 4 else "rare" for slide in range(18)]
    cases: list[tuple[dict[str, list[object]], dict[str, object], str]] = [
        ({}, {"targets": ["label", "label_KRAS"]}, r"no column 'label_KRAS'.*data\.targets"),
        ({"label_b": [0] * 10 + [0, 1] * 4}, {"targets": ["label", "label_b"]}, r"train split has no positive.*'label_b'"),
        ({"subtype": words_of_slides()}, {"targets": ["label", "subtype"]}, r"'subtype' holds words.*data\.label_column=subtype"),
        ({"subtype": rare}, {"label_column": "subtype", "negative_class": "normal"}, r"validation split has no positive.*= rare"),
        ({"subtype": words_of_slides()}, {"label_column": "subtype", "negative_class": "Normal"}, "is of class 'Normal'"),
        ({}, {"negative_class": "normal"}, "holds 1 and 0, not words"),
    ]
    for columns, settings, word in cases:
        with pytest.raises(InputError, match=word):
            open_study(with_columns(**columns), DataConfig.model_validate(settings), 0)
    for settings in ({"targets": ["label", "label"]}, {"targets": ["label", "label_b"], "negative_class": "normal"}):
        with pytest.raises(ValidationError, match=r"twice|are words"):
            DataConfig.model_validate(settings)
    for words, word in (
        ([f"case {number}" for number in range(200)], "200 different words"),
        (["a", "b"], "data.negative_class=a"),
        (["a", "a"], "one class only"),
        (["Adeno", "adeno", "x"], "differ by case only"),
    ):
        with pytest.raises(InputError, match=word):
            targets_of_words(np.array(words), "subtype", [], "", "slides.parquet")


def test_what_carries_one_target_refuses_several_in_words() -> None:
    cohort = with_columns(label_b=[slide // 2 % 2 for slide in range(18)], subtype=words_of_slides())
    with pytest.raises(InputError, match=r"hnm compare carries one only.*data\.label_column=label"):
        open_study(cohort, DataConfig(targets=["label", "label_b"]), 0, "hnm compare")
    with pytest.raises(InputError, match=r"3 classes .* hnm compare carries one yes or no only"):
        open_study(cohort, DataConfig(label_column="subtype"), 0, "hnm compare")
