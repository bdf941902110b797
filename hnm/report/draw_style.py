"""How all pictures of a run look: colours that colour-blind people tell apart, sizes that are read in a report.

Colours: Okabe and Ito, "Color Universal Design", 2008. What a colour says is said by a shape, a place or a word too.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from shards.files import whole_file

BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, YELLOW = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442",
)  # fmt: skip
GREY, LIGHT_GREY, INK = "#6b7580", "#c4cad0", "#1b1f24"
NEGATIVE, POSITIVE = BLUE, VERMILLION  # of slides and patches, in every picture
SEQUENCE = "cividis"  # perceptually uniform, and the same to a colour-blind eye
DPI = 110
WIDTH = 10.5  # inches: 1155 px, the width of the report

STYLE: Any = {
    "font.size": 11.0,
    "axes.titlesize": 12.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "grid.color": "#e6e9ec",
    "axes.axisbelow": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": True,
    "legend.framealpha": 0.85,  # a line behind it is seen, and does not cross the words
    "legend.edgecolor": "none",
    "legend.fontsize": 10.0,
    "lines.linewidth": 2.0,
    "text.color": INK,
}


@contextmanager
def figure_of(path: Path, height: float, rows: int = 1, columns: int = 1, **grid: Any) -> Iterator[Any]:
    """Yield (figure, axes (rows, columns)) and write the picture as PNG when the block ends well.

    Drawn by Agg on a figure of its own: no display, no global state, and so safe in a thread or on a cluster.

    Args:
        path: the file, written whole or not at all.
        height: inches; the width is that of the report.
        rows: of axes.
        columns: of axes.
        grid: further arguments of `Figure.subplots`.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **grid)
        yield figure, axes
        with whole_file(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})


def evenly_spread(num: int, most: int, also: Sequence[int] = ()) -> list[int]:
    """Return at most `most` of the numbers 0 .. num - 1, evenly spread, first and last among them, and those of `also`."""
    chosen = set(np.unique(np.linspace(0, num - 1, min(num, most)).round().astype(int)).tolist())
    return sorted(chosen | set(also))


def shade(place: float) -> tuple[float, float, float]:
    """Return a colour between light and dark for an ordered quantity, such as a round; `place` is 0 to 1."""
    rgba = matplotlib.colormaps[SEQUENCE](0.85 - 0.85 * place)
    return rgba[:3]
