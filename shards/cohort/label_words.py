"""Labels as people write them: words, of which the configuration says which are positive.

    malignant, benign, NA   data.positive: malignant ──▶ 1, 0, unknown        1, 0, 1.0, ""  ──▶ 1, 0, 1, unknown
"""

import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from shards.errors import InputError

NUMBERS = {"": None, "0": 0, "1": 1, "0.0": 0, "1.0": 1}  # pandas writes 1.0 where the column has an empty cell
UNKNOWN = ("", "na", "n/a", "nan", "null", "unknown", "unk", "not available", "[not available]", "-", "--", "?", "missing")
# Which word an error proposes, the first that is there; else the rarest.
LIKELY = ("malignant", "positive", "yes", "true", "y", "tumor", "tumour", "cancer", "mutated", "mutant", "mut", "case", "2")
MAX_NAMED = 6
YAML_WORDS = {True: ["yes", "true", "on"], False: ["no", "false", "off"]}  # what YAML reads as one value each


def words_of_setting(value: Any) -> Any:
    """Return `data.positive` as a list of words, whatever YAML made of it: `yes` is true to it, and 2 a number."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(one, str | bool | int | float) for one in values):
        return value
    return [word for one in values for word in (YAML_WORDS[one] if isinstance(one, bool) else [str(one)])]


def meaning_of_words(cells: Sequence[str], positive: Collection[str], where: str) -> dict[str, int | None]:
    """Return what the cells of a label column mean: by cell 1, 0, or None (unknown).

    Args:
        cells: of the column.
        positive: words that are positive; case does not matter, and 2.0 is 2. Others are then negative, NA and the like unknown.
        where: file and column, for the message.

    Returns:
        A cell that it lacks is no label.

    Raises:
        InputError: the column holds words, and none of them is said to be positive.
    """
    counts, wanted = Counter(cells), {canonical(word) for word in positive}
    words = [word for word in counts if canonical(word) not in UNKNOWN]
    if any(canonical(word) in wanted for word in counts if word):
        return {word: _meaning(canonical(word), wanted) for word in counts}
    if len(words) < 2 or any(word in NUMBERS for word in words):  # then odd cells are refused one by one
        return dict(NUMBERS)
    found = ", ".join(f"{word} ({count} slides)" for word, count in counts.most_common(MAX_NAMED) if word)
    more = " ..." if len(words) > MAX_NAMED else ""
    given = f"none is {' or '.join(positive)} (data.positive)" if positive else "which of them is positive is not said"
    rarest = min(words, key=lambda word: counts[word])
    likely = next((word for name in LIKELY for word in words if canonical(word) == name), rarest)
    classes = ". Classes to be told apart stand in a column whose name does not begin with label (data.label_column)"
    classes = classes if len(words) > 2 else ""
    raise InputError(
        f"{where}: labels are words: {found}{more}, and {given}. Write the positive ones into the configuration, such as "
        f"data.positive={likely} (in a YAML file, in the section data: 'positive: {likely}'), or write 1 and 0 into the column"
        f"{classes}"
    )


def words_told(cells: Sequence[str], meaning: dict[str, int | None], where: str) -> list[str]:
    """Return a sentence on what words were taken for, where that is not plain: several negative ones, or unknown ones."""
    counts = Counter(cells)
    taken = {
        label: [word for word in counts if word and word not in NUMBERS and word in meaning and meaning[word] == label]
        for label in (1, 0, None)
    }
    if len(taken[0]) < 2 and not taken[None]:
        return []
    names = {1: "positive", 0: "negative", None: "unknown"}
    told = "; ".join(
        f"{names[label]}: {', '.join(f'{word} ({counts[word]})' for word in words)}"
        for label, words in taken.items()
        if words
    )
    return [f"{where}: words were taken as {told} (data.positive)"]


def labels_of_words(words: Sequence[str], positive: Collection[str], where: str) -> np.ndarray:
    """Return the labels of a column of words as (S,) int8: 1, 0, or -1 (unknown).

    Args:
        words: (S,), "" where there is none.
        positive: see `meaning_of_words`.
        where: file and column, for the message.

    Raises:
        InputError: none of the words is said to be positive, or a word among numbers is no label.
    """
    meaning = meaning_of_words(words, positive, where)
    strange = [word for word in words if word not in meaning]
    if strange:
        raise InputError(
            f"{where}: {strange[0]!r} among 1 and 0 is no label. Correct it, or say which word is positive: data.positive"
        )
    return np.array([-1 if (label := meaning[word]) is None else label for word in words], np.int8)


def canonical(word: str) -> str:
    """Return a word as it is compared."""
    plain = unicodedata.normalize("NFC", word).strip().casefold()
    try:
        return f"{float(plain):g}" if plain not in ("nan", "inf", "infinity") else plain
    except ValueError:
        return plain


def _meaning(word: str, positive: Collection[str]) -> int | None:
    return 1 if word in positive else None if word in UNKNOWN else 0
