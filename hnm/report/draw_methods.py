"""The pictures of a study: figures of all methods, differences to the best baseline, and the course of the validation AUC."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hnm.report.draw_style import BLUE, GREEN, GREY, INK, LIGHT_GREY, ORANGE, PURPLE, SKY, VERMILLION, figure_of
from shards.errors import InputError

COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
LINES = ("-", "--", ":")  # where colours come again

Rows = Sequence[Mapping[str, Any]]  # of study.json


def colours_of(rows: Rows) -> dict[str, tuple[str, str]]:
    """Return by name the colour and line of each method; baselines are grey."""
    methods = [row["name"] for row in rows if not row["is_baseline"]]
    own = {name: (COLOURS[i % len(COLOURS)], LINES[i // len(COLOURS) % len(LINES)]) for i, name in enumerate(methods)}
    return {row["name"]: own.get(row["name"], (GREY, "-")) for row in rows}


def draw_figures(path: Path, rows: Rows, figures: Sequence[str], words: Mapping[str, str]) -> None:
    """Draw a line per method: mean and interval, of each figure an axis of its own.

    Raises:
        InputError: no method defines any of the figures.
    """
    known = [name for name in figures if any(name in row["mean"] for row in rows)]
    if not known:
        raise InputError("no method defines any figure")
    with figure_of(path, 1.4 + 0.36 * len(rows), columns=len(known), sharey=True) as (_, (axes,)):
        for its, name in zip(axes, known, strict=True):
            _draw_intervals(its, rows, [row["mean"].get(name) for row in rows])
            its.axvline(0.5, color=LIGHT_GREY, linewidth=1.2, zorder=0)
            its.set_title(words[name])


def draw_differences(path: Path, rows: Rows, best: Mapping[str, str | None], words: Mapping[str, str]) -> None:
    """Draw a line per method: the mean difference to the best baseline and its interval.

    Raises:
        InputError: nothing can be compared.
    """
    known = [name for name in best if any(name in row["difference"] for row in rows)]
    if not known:
        raise InputError("there is no other method to compare with the best baseline")
    with figure_of(path, 1.4 + 0.36 * len(rows), columns=len(known), sharey=True) as (_, (axes,)):
        for its, name in zip(axes, known, strict=True):
            _draw_intervals(its, rows, [row["difference"].get(name) for row in rows])
            its.axvline(0.0, color=INK, linewidth=1.2, zorder=0)
            its.set_title(f"{words[name]}: minus that of {best[name]}")


def draw_course(path: Path, rows: Rows) -> None:
    """Draw each method's validation AUC against its seconds of training: folds thin, the mean of each round thick.

    Raises:
        InputError: no fold knows its validation AUC.
    """
    if not any(curve["seconds"] for row in rows for curve in row["curves"]):
        raise InputError("no fold knows its validation AUC")
    with figure_of(path, 4.6) as (figure, ((axes,),)):
        for row in rows:
            curves = [np.array([curve["seconds"], curve["validation_auc"]]) for curve in row["curves"] if curve["seconds"]]
            if not curves:
                continue
            colour, line = colours_of(rows)[row["name"]]
            for curve in curves:
                axes.plot(*curve, line, color=colour, linewidth=0.8, alpha=0.3)
            rounds = [np.mean([curve[:, i] for curve in curves if curve.shape[1] > i], axis=0) for i in range(_longest(curves))]
            marker, label = ("s", "baselines") if row["is_baseline"] else ("o", row["name"])
            axes.plot(*np.transpose(rounds), line, marker=marker, color=colour, label=label, markersize=6)
            if row["is_baseline"]:
                short = row["name"].rpartition("/")[2]
                axes.annotate(short, rounds[0], (5, 3), textcoords="offset points", fontsize=8, color=GREY)
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set(xlabel="seconds of training (logarithmic above 1)", ylabel="validation AUC", title="How fast each method learns")
        handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # the baselines once
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=4)


def _longest(curves: Sequence[np.ndarray]) -> int:
    return max(curve.shape[1] for curve in curves)


def _draw_intervals(axes: Any, rows: Rows, figures: Sequence[Mapping[str, Any] | None]) -> None:
    colours = colours_of(rows)
    for place, (row, figure) in enumerate(zip(rows, figures, strict=True)):
        if figure is None:
            continue
        colour, _ = colours[row["name"]]
        if figure["low"] is not None:
            axes.plot([figure["low"], figure["high"]], [place, place], color=colour, linewidth=1.8)
        axes.plot(figure["mean"], place, "s" if row["is_baseline"] else "D", color=colour, markersize=7)
        told = f"{figure['mean']:.3f}" if not figure.get("to") else f"{figure['mean']:+.3f}"
        axes.annotate(told, (figure["mean"], place), (0, 5), textcoords="offset points", ha="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.8)
    axes.margins(x=0.08)
