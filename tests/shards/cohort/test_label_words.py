"""Words of labels, said by the configuration, against what a person means by them."""

from pathlib import Path

import numpy as np
import pytest

from hnm.config import load_config
from shards.cohort.label_words import labels_of_words, meaning_of_words
from shards.cohort.slides import read_slide_table
from shards.errors import InputError


def write_table(folder: Path, labels: list[str]) -> Path:
    rows = [f"s{number},s{number}.png,{label}" for number, label in enumerate(labels)]
    (folder / "slides.csv").write_text("\n".join(["slide_id,path,label", *rows]) + "\n", encoding="utf-8")
    return folder / "slides.csv"


@pytest.mark.parametrize(
    ("words", "positive", "labels"),
    [
        (["malignant", "benign", "Malignant", ""], ["malignant"], [1, 0, 1, -1]),
        (["yes", "no", "NA", "unknown"], ["yes"], [1, 0, -1, -1]),
        (["1", "2.0", "2"], ["2"], [0, 1, 1]),
        (["1", "0", "1.0", ""], [], [1, 0, 1, -1]),
        (["1", "0"], ["malignant"], [1, 0]),  # another label column's words
        (["LUAD", "LUSC", "normal"], ["LUAD", "LUSC"], [1, 1, 0]),
        (["unknown", "known"], ["unknown"], [1, 0]),  # what is named is no placeholder
    ],
)
def test_words_are_labels(words: list[str], positive: list[str], labels: list[int]) -> None:
    np.testing.assert_array_equal(labels_of_words(words, positive, "here"), np.array(labels, np.int8))


def test_words_without_a_word_on_them_are_shown_with_the_line_to_add(tmp_path: Path) -> None:
    path = write_table(tmp_path, ["benign"] * 3 + ["malignant"])
    with pytest.raises(InputError) as told:
        read_slide_table(path)
    assert str(told.value) == (
        f"{path}, column label: labels are words: benign (3 slides), malignant (1 slides), and which of them is positive is not "
        "said. Write the positive ones into the configuration, such as data.positive=malignant (in a YAML file, in the section "
        "data: 'positive: malignant'), or write 1 and 0 into the column"
    )
    with pytest.raises(InputError, match=r"benign \(3 slides\), malignant .* none is tumour \(data.positive\)"):
        read_slide_table(path, positive=["tumour"])
    with pytest.raises(InputError, match=r"'x' among 1 and 0 is no label"):
        labels_of_words(["1", "0", "x"], [], "here")


def test_a_table_of_words_is_read_and_what_is_not_plain_is_told(tmp_path: Path) -> None:
    path = write_table(tmp_path, ["benign", "malignant", "borderline", "NA", "benign"])
    table = read_slide_table(path, positive=load_config(overrides=["data.positive=malignant"]).data.positive)
    assert [slide.labels["label"] for slide in table.slides] == [0, 1, 0, None, 0]
    told = "words were taken as positive: malignant (1); negative: benign (2), borderline (1); unknown: NA (1) (data.positive)"
    assert table.warnings == [f"{path}, column label: {told}"]
    plain = read_slide_table(write_table(tmp_path, ["yes", "no"]), positive=["yes"])
    assert plain.warnings == []


@pytest.mark.parametrize(("written", "word"), [("yes", "Yes"), ("true", "TRUE"), ("2", "2.0"), ("[a, b]", "B"), ("no", "No")])
def test_words_that_yaml_takes_for_something_else_are_words(written: str, word: str) -> None:
    positive = load_config(overrides=[f"data.positive={written}"]).data.positive
    assert meaning_of_words([word, "other"], positive, "here") == {word: 1, "other": 0}
