"""What each split holds: slides, positives, patients, patches; and what will be missed in it.

    slides, patches of each ──▶ SplitCount per split column and split ──▶ lines, warnings, the drawing in tiling.html
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shards.cohort.slides import SPLITS, Slide

# With fewer of a kind one patient moves sensitivity or specificity by more than a fifth.
FEW_PATIENTS = 5
MAX_COLUMNS = 2  # that are printed: a table of folds has a column for each


@dataclass(frozen=True)
class SplitCount:
    """One split of one split column; labels are those of the first label column.

    Attributes:
        column: the split column.
        split: train, validation, test, or "" for slides in none.
        num_slides: positive, negative and unlabelled ones.
        num_positive: slides with label 1.
        num_negative: slides with label 0.
        num_patients: whose slides these are.
        num_positive_patients: with a positive slide here.
        num_negative_patients: with a negative slide and no positive one.
        num_patches: of these slides; None: not cut yet.
    """

    column: str
    split: str
    num_slides: int
    num_positive: int
    num_negative: int
    num_patients: int
    num_positive_patients: int
    num_negative_patients: int
    num_patches: int | None

    @property
    def num_unlabelled(self) -> int:
        return self.num_slides - self.num_positive - self.num_negative

    @property
    def name(self) -> str:
        return self.split or "none"

    def __str__(self) -> str:
        parts = [_counted(self.num_slides, "slide"), f"{self.num_positive:,} positive", f"{self.num_negative:,} negative"]
        parts += [f"{self.num_unlabelled:,} unlabelled"] if self.num_unlabelled else []
        parts += [_counted(self.num_patients, "patient")]
        parts += [_counted(self.num_patches, "patch", "patches")] if self.num_patches is not None else []
        return f"{self.column}, {self.name}: {', '.join(parts)}"


def count_splits(slides: Sequence[Slide], num_patches: Sequence[int] | None = None) -> list[SplitCount]:
    """Return the counts of train, validation and test, and of no split where slides are in none, by split column.

    Args:
        slides: those that count; of a table without labels (for prediction) nothing is counted.
        num_patches: of each; None: they are not cut yet.
    """
    if not any(slide.labels for slide in slides):
        return []
    numbers: Sequence[int | None] = [None] * len(slides) if num_patches is None else num_patches
    pairs = list(zip(slides, numbers, strict=True))
    return [
        _count(column, split, [(slide, number) for slide, number in pairs if slide.splits[column] == split])
        for column in slides[0].splits
        for split in (*SPLITS, "")
        if split or any(not slide.splits[column] for slide in slides)
    ]


def _count(column: str, split: str, own: Sequence[tuple[Slide, int | None]]) -> SplitCount:
    numbers = [number for _, number in own if number is not None]
    labels = [next(iter(slide.labels.values()), None) for slide, _ in own]
    patients: dict[int | None, set[str]] = {
        kind: {slide.patient_id for (slide, _), label in zip(own, labels, strict=True) if label == kind} for kind in (1, 0)
    }
    return SplitCount(
        column,
        split,
        num_slides=len(own),
        num_positive=labels.count(1),
        num_negative=labels.count(0),
        num_patients=len({slide.patient_id for slide, _ in own}),
        num_positive_patients=len(patients[1]),
        num_negative_patients=len(patients[0] - patients[1]),
        num_patches=sum(numbers) if len(numbers) == len(own) else None,
    )


def split_lines(counts: Sequence[SplitCount]) -> list[str]:
    """Return a line per split, of the first split columns."""
    columns = list(dict.fromkeys(count.column for count in counts))
    lines = [str(count) for count in counts if count.column in columns[:MAX_COLUMNS]]
    more = len(columns) - MAX_COLUMNS
    return [*lines, f"and {_counted(more, 'more split column')}: see tiling.html"] if more > 0 else lines


def split_warnings(counts: Sequence[SplitCount]) -> list[str]:
    """Return what training and testing will miss, a line or two per split column."""
    lines: list[str] = []
    for column in dict.fromkeys(count.column for count in counts):
        own = [count for count in counts if count.column == column and count.split]
        if not any(count.num_slides for count in own):
            lines.append(f"the column {column!r} is empty. Fill it in, or remove it: without a column split it is drawn")
            continue
        lacking = [text for count in own if (text := _lacks(count))]
        lines += [f"{column}: {'; '.join(lacking)}"] if lacking else []
        few = [text for count in own if (text := _has_few(count))]
        if few:
            lines.append(
                f"{column}: {'; '.join(few)}. Figures from fewer than {FEW_PATIENTS} patients of a kind say little: take more "
                f"slides, or test every slide once with hnm crossval"
            )
    return lines


def _lacks(count: SplitCount) -> str:
    kinds = [word for number, word in ((count.num_positive, "positive"), (count.num_negative, "negative")) if not number]
    what = "slide" if not count.num_slides else " and no ".join(kinds) + " slide"
    return f"{count.name} has no {what}" if kinds else ""


def _has_few(count: SplitCount) -> str:
    kinds = ((count.num_positive_patients, "positive"), (count.num_negative_patients, "negative"))
    few = [f"{number} {word}" for number, word in kinds if 0 < number < FEW_PATIENTS]
    is_one = len(few) == 1 and few[0].startswith("1 ")
    return f"{count.name} has only {' and '.join(few)} patient{'' if is_one else 's'}" if few else ""


def _counted(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
