"""A page's table of slides as plain values; templates/slide_table.html lays it out, and slide_table.js sorts and filters it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Column = tuple[str, str, str]  # heading, the kind by which its cells are sorted (text or number), and what it says

RESULTS = ("right", "wrong", "none")


@dataclass(frozen=True)
class SlideRow:
    """A row.

    Attributes:
        cells: text by the column's heading; "": not known.
        href: where the slide's heatmap is, None without one.
        percent: length of the bar behind the cell "score".
        is_high: whether the score reaches the threshold: the bar has another colour.
    """

    cells: Mapping[str, str]
    href: str | None = None
    percent: float = 0.0
    is_high: bool = False


@dataclass(frozen=True)
class SlideTable:
    """The table with its filters.

    Attributes:
        columns: from left to right.
        rows: from top to bottom.
        choices: by heading of a column the values that one may choose.
        searched: what is told in the empty search field.
        counted: what the rows are called, such as slides.
    """

    columns: Sequence[Column]
    rows: Sequence[SlideRow]
    choices: Mapping[str, Sequence[str]]
    searched: str
    counted: str
