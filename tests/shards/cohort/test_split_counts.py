"""What a split holds, and which of them will give no figure worth its name."""

from pathlib import Path

from shards.cohort.slides import Slide
from shards.cohort.split_counts import count_splits, split_lines, split_warnings


def slide(number: int, split: str, label: int | None, patient: str = "", column: str = "split") -> Slide:
    return Slide(f"s{number}", Path(f"{number}.svs"), patient or f"p{number}", {"label": label}, {column: split}, None)


SLIDES = [
    *(slide(number, "train", number % 2) for number in range(12)),
    slide(12, "validation", 1, "P"),
    slide(13, "validation", 0, "P"),
    slide(14, "validation", 0),
    slide(15, "test", 0),
    slide(16, "", None),
]


def test_slides_positives_patients_and_patches_by_hand() -> None:
    assert split_lines(count_splits(SLIDES, [10] * 17)) == [
        "split, train: 12 slides, 6 positive, 6 negative, 12 patients, 120 patches",
        "split, validation: 3 slides, 1 positive, 2 negative, 2 patients, 30 patches",
        "split, test: 1 slide, 0 positive, 1 negative, 1 patient, 10 patches",
        "split, none: 1 slide, 0 positive, 0 negative, 1 unlabelled, 1 patient, 10 patches",
    ]
    assert "12 patients" in split_lines(count_splits(SLIDES))[0]
    assert not any("patch" in line for line in split_lines(count_splits(SLIDES)))


def test_a_split_that_is_empty_or_tiny_is_a_warning() -> None:
    lacking, few = split_warnings(count_splits(SLIDES))
    assert lacking == "split: test has no positive slide"
    # the patient with a slide of each kind is a positive one
    assert few.startswith("split: validation has only 1 positive and 1 negative patients; test has only 1 negative patient. ")
    assert "hnm crossval" in few
    assert split_warnings(count_splits(SLIDES[:12])) == ["split: validation has no slide; test has no slide"]
    enough = [slide(number, ("train", "validation", "test")[number // 10], number % 2) for number in range(30)]
    assert split_warnings(count_splits(enough)) == []


def test_an_empty_column_and_a_table_without_labels() -> None:
    (warning,) = split_warnings(count_splits([slide(0, "", 1), slide(1, "", 0)]))
    assert warning.startswith("the column 'split' is empty")
    assert count_splits([Slide("a", Path("a.svs"), "a", {}, {"split": "train"}, None)]) == []


def test_folds_are_told_but_not_all_printed() -> None:
    columns = {f"split_{fold}": "train" for fold in range(5)}
    slides = [Slide(f"s{n}", Path("a"), f"p{n}", {"label": n % 2}, columns, None) for n in range(4)]
    lines = split_lines(count_splits(slides))
    assert lines[-1] == "and 3 more split columns: see tiling.html"
    assert len(lines) == 7
