"""What a group (class) of outlines means for the truth: positive, cut out, or ignored.

    "Tumor: Positive" ──settings──▶ positive       "Normal" ──▶ cut out       "Region*", "Stroma" ──▶ ignored

Case and Unicode form do not matter. A derived class of QuPath belongs to its base class, too.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["positive", "cut out", "ignored"]

UNCLASSIFIED = "(no class)"
# QuPath's words for the staining of a cell: "Tumor: Negative" is tumour without the marker, not a negative area.
STAINING = {"negative", "positive", "1+", "2+", "3+"}


@dataclass(frozen=True)
class Tally:
    """What the files say of one group.

    Attributes:
        role: what its outlines are taken as.
        num_outlines: with an area.
        num_points: positive points of a CSV file.
        area: of the outlines as drawn, level-0 pixels squared; overlaps count twice.
    """

    role: Role
    num_outlines: int = 0
    num_points: int = 0
    area: float = 0.0


class Roles:
    """The settings positive_groups and negative_groups, ready to be asked."""

    def __init__(self, positive_groups: Sequence[str] | None, negative_groups: Sequence[str]) -> None:
        self.positive = None if positive_groups is None else {canonical(group) for group in positive_groups}
        self.negative = {canonical(group) for group in negative_groups}

    def of(self, group: str) -> Role:
        """Return what a group's outlines are.

        The settings' own word for the whole name comes first; then a name with QuPath's asterisk (Ignore*, Region*), which is
        never tumour; then the settings' words for a part of a derived class; then the default: positive.
        """
        whole, parts = canonical(group), parts_of(group)
        positive = self.positive or set()
        if whole in positive:
            return "positive"
        if whole in self.negative:
            return "cut out"
        if any(part.endswith("*") for part in parts):
            return "ignored"
        if any(part in self.negative for part in parts[:1] + [part for part in parts[1:] if part not in STAINING]):
            return "cut out"
        return "positive" if self.positive is None or any(part in positive for part in parts) else "ignored"


def canonical(group: str) -> str:
    """Return a group's name as it is compared."""
    return ": ".join(parts_of(group))


def parts_of(group: str) -> list[str]:
    """Return the levels of a derived class, the base class first, as they are compared."""
    return [unicodedata.normalize("NFC", part).strip().casefold() for part in group.split(":")]


def names_in_vain(names: Iterable[str], groups: Iterable[str]) -> list[str]:
    """Return those names of the settings that name no group, nor a part of a derived one."""
    known = {name for group in groups for name in (canonical(group), *parts_of(group))}
    return [name for name in names if canonical(name) not in known]
