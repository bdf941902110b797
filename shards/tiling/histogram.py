"""The bars of tiling.html: how many slides have how many patches.

    (n,) counts ──▶ Histogram: bars, ticks and the median in px of a plane of 720 x 200 px, y downwards
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_BARS = 24
WIDTH, HEIGHT, LEFT = 720, 200, 60
NEAR_AN_END = 0.2  # of the axis: words in the middle of such a place would stick out


@dataclass(frozen=True)
class Bar:
    """A bar in px, and what it says when one points at it."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Mark:
    """A place on the axis in px, its words, and which part of them stands there: start, middle or end."""

    x: float
    words: str
    anchor: str


@dataclass(frozen=True)
class Histogram:
    """All that is drawn; `tallest` is the number of slides of the highest bar."""

    bars: list[Bar]
    ticks: list[Mark]
    median: Mark
    tallest: int
    left: int = LEFT
    right: int = WIDTH


def histogram(counts: Sequence[int]) -> Histogram | None:
    """Return the histogram of the slides' numbers of patches, each above 0; None without slides."""
    if not counts:
        return None
    edges = np.unique(np.linspace(0, max(counts), min(NUM_BARS, max(counts)) + 1).round().astype(int))
    heights, _ = np.histogram(counts, bins=edges)
    step, tallest, median = (WIDTH - LEFT) / len(heights), int(heights.max()), float(np.median(counts))
    bars = [
        Bar(
            x=LEFT + index * step + 1,
            y=HEIGHT * (1 - number / tallest),
            width=step - 2,
            height=HEIGHT * number / tallest,
            title=f"{edges[index]:,} to {edges[index + 1]:,} patches: {number} slides",
        )
        for index, number in enumerate(heights)
    ]
    ticks = [
        _mark(share, f"{edges[-1] * share:,.0f}", "middle" if 0 < share < 1 else None) for share in (0, 0.25, 0.5, 0.75, 1)
    ]
    return Histogram(bars, ticks, _mark(median / edges[-1], f"median {median:,.0f}"), tallest)


def _mark(share: float, words: str, anchor: str | None = None) -> Mark:
    if anchor is None:
        anchor = "start" if share < NEAR_AN_END else "end" if share > 1 - NEAR_AN_END else "middle"
    return Mark(LEFT + (WIDTH - LEFT) * share, words, anchor)
