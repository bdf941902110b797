"""What a run learns to tell: one yes or no; several (data.targets); or classes (data.label_column with words).

    slides.parquet ──▶ Labels: (S,) of one target  |  Targets: a name and (S,) of 1, 0, -1 each ──▶ Study.of_target

A class is a target, too: it against all others. With a negative class (`normal`) that one has no target of its own, and of two
words one is left: that is one yes or no, as of a column of 1 and 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shards.cohort.cohort import Cohort
from shards.cohort.slides import slide_key
from shards.errors import InputError

MOST_CLASSES = 50  # a column with more different words holds names, not classes
MAX_NAMED = 8
TARGETS_FOLDER = "targets"  # of a run directory and of an exported model: a folder for each target


@dataclass(frozen=True)
class Targets:
    """Several targets of one run.

    Attributes:
        names: of the label columns, or of the classes.
        labels: (targets, S) int8: 1, 0, or -1 where a slide takes no part in a target.
        column: where classes stand; "" where each target has a column of its own.
        negative: the class without a target, "" where there is none.
        told: what people should know, a line each.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    column: str = ""
    negative: str = ""
    told: tuple[str, ...] = ()

    @property
    def are_classes(self) -> bool:
        """Are they classes, of which a slide has exactly one?"""
        return bool(self.column)

    @property
    def keys(self) -> list[str]:
        """The names as names of folders, different for different targets."""
        return [slide_key(name) for name in self.names]

    @property
    def joined(self) -> np.ndarray:
        """(S,) int8: 1 where a slide is positive in a target, else 0 where it has a label in one, else -1."""
        return np.asarray(self.labels.max(axis=0))

    @property
    def groups(self) -> np.ndarray:
        """(S,) int64: slides of the same labels in all targets share a number, from 0."""
        return np.unique(self.labels, axis=1, return_inverse=True)[1].reshape(-1).astype(np.int64)

    @property
    def class_names(self) -> list[str]:
        """The classes, the negative one last; of slides with one label for each target there are none."""
        return [*self.names, *([self.negative] if self.negative else [])] if self.are_classes else []

    def classes_of(self, slides: np.ndarray) -> np.ndarray:
        """Return the class of each of `slides` that take part, (s,) int64: its place in `class_names`."""
        labels = self.labels[:, slides]
        return np.where(labels.max(axis=0) == 1, labels.argmax(axis=0), len(self.names))

    def column_of(self, target: int) -> str:
        """Return what a target is called where one label column is told: its column, or `subtype = adeno`."""
        return f"{self.column} = {self.names[target]}" if self.are_classes else self.names[target]


def targets_of_columns(cohort: Cohort, columns: Sequence[str]) -> Targets:
    """Return a target for each label column of 1, 0 or nothing.

    Raises:
        InputError: a column is missing, or holds words.
    """
    return Targets(tuple(columns), np.stack([cohort.labels(column, "data.targets") for column in columns]))


def refuse_classes(cohort: Cohort, column: str, classes: Sequence[str], negative: str | None) -> None:
    """Refuse settings of classes where the column holds 1 and 0.

    Raises:
        InputError: naming the keys.
    """
    if classes or negative is not None:
        raise InputError(
            f"{cohort.root / 'slides.parquet'}: the column {column!r} holds 1 and 0, not words: data.classes and "
            "data.negative_class are for classes. Leave them out, or name the column of the words: data.label_column"
        )


def targets_of_words(words: np.ndarray, column: str, classes: Sequence[str], negative: str, where: str) -> Targets:
    """Return a target for each class: it against the others.

    Args:
        words: (S,) of str, "" where a slide has none.
        column: they are of.
        classes: that are learned; empty: all that are found.
        negative: the one without a target of its own, "" if each has one.
        where: file and column, for the message.

    Raises:
        InputError: classes are too many, too few or misspelt.
    """
    found, counts = np.unique(words[words != ""], return_counts=True)
    count_of: dict[str, int] = dict(zip(found.tolist(), counts.tolist(), strict=True))
    wanted = list(classes) or list(count_of)
    _check_words(list(count_of), [*wanted, *([negative] if negative else [])], where)
    if len(wanted) > MOST_CLASSES:
        raise InputError(
            f"{where}: {len(wanted)} different words ({_named(wanted)}): such a column holds names or numbers, and a class "
            f"needs slides in each split; at most {MOST_CLASSES} are learned. Name the classes that you mean: data.classes=[...]"
        )
    names = [name for name in wanted if name != negative]
    if not names or (len(names) == 1 and not negative):
        raise InputError(f"{where}: one class only ({_named(wanted)}): there is nothing to tell it from. Name another column")
    if len(names) == 2 and not negative:
        raise InputError(
            f"{where}: two classes ({_named(names)}) are one yes or no. Say which is the no: data.negative_class={names[0]}"
        )
    takes_part = np.isin(words, [*names, negative] if negative else names)
    labels = np.stack([np.where(takes_part, words == name, -1) for name in names]).astype(np.int8)
    others = sorted(set(count_of) - {*names, negative})
    return Targets(tuple(names), labels, column, negative, tuple(_told_of_classes(names, negative, others, count_of)))


def _told_of_classes(names: Sequence[str], negative: str, others: Sequence[str], count_of: dict[str, int]) -> list[str]:
    told = [f"{len(names)} classes, each against the others: {', '.join(f'{name} ({count_of[name]} slides)' for name in names)}"]
    if negative:
        told[0] += f"; {negative} ({count_of[negative]}) is none of them (data.negative_class)"
    if others:
        num = sum(count_of[name] for name in others)
        told.append(f"{num} slides of other classes ({_named(others)}) take no part (data.classes)")
    return told


def require_both(
    labels: np.ndarray, slides_of: Mapping[str, np.ndarray], columns: tuple[str, str], key: str, cohort: Cohort
) -> None:
    """Refuse a target that a split has only positive or only negative slides of.

    Args:
        labels: (S,) of the target.
        slides_of: by split the slide numbers.
        columns: of labels and of splits.
        key: of the setting that names the labels.
        cohort: the slides.

    Raises:
        InputError: naming the split and the columns.
    """
    for name, slides in slides_of.items():
        for label, word in ((1, "positive"), (0, "negative")):
            if not np.any(labels[slides] == label):
                raise InputError(
                    f"{cohort.root / 'slides.parquet'}: the {name} split has no {word} slide with patches (columns "
                    f"{columns[0]!r}, {columns[1]!r}). Training needs both: change the split in slides.csv and tile again, or "
                    f"choose other columns with {key}, data.split_column"
                )


def _check_words(found: Sequence[str], wanted: Sequence[str], where: str) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InputError(
            f"{where}: no slide is of class {missing[0]!r}; found are {_named(found)}. Correct data.classes or "
            "data.negative_class (upper and lower case count)"
        )
    by_form: dict[str, str] = {}
    for name in wanted:
        other = by_form.setdefault(name.casefold(), name)
        if other != name:
            raise InputError(f"{where}: {other!r} and {name!r} differ by case only. Write them alike in slides.csv, tile again")


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
