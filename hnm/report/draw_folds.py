"""How the folds of a cross-validation differ: each figure fold by fold, and each fold's scores of its test slides."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hnm.report.draw_style import BLUE, GREY, INK, NEGATIVE, POSITIVE, VERMILLION, figure_of
from shards.errors import InputError

MAX_CHARACTERS = 100  # of names beside each other; more would not fit, and are turned


def draw_figures(path: Path, mean: Mapping[str, Mapping[str, Any]], by_fold: Mapping[str, Mapping[str, float]]) -> None:
    """Draw a line per figure: a point for each fold, the mean, and its interval.

    Args:
        path: PNG to write.
        mean: by figure its mean, low, high (None with one fold); as in metrics.json of a cross-validation.
        by_fold: by the fold's name its figures; a fold need not define all.

    Raises:
        InputError: no fold defines any figure.
    """
    names = list(mean)
    if not names:
        raise InputError("no fold defines any figure")
    with figure_of(path, 1.3 + 0.34 * len(names)) as (_, ((axes,),)):
        for place, name in enumerate(names):
            known = {fold: figures[name] for fold, figures in by_fold.items() if name in figures}
            values, figure = np.array(list(known.values())), mean[name]
            axes.plot(values, np.full(len(values), place), "o", color=BLUE, alpha=0.55, markersize=8, label="a fold")
            if figure["low"] is not None:
                span = [figure["low"], figure["high"]]
                axes.plot(span, [place, place], color=GREY, linewidth=1.6, zorder=1, label="95 % interval of the mean")
            axes.plot(figure["mean"], place, "D", color=VERMILLION, markersize=7, label="mean")
            if len(known) > 1 and values.max() - values.min() > 0.02:
                worst = max(known, key=lambda fold: known[fold] if is_low_good(name) else -known[fold])
                aside = "left" if known[worst] < 0.15 else "center"  # it would cover the figure's name
                axes.annotate(
                    worst, (known[worst], place), (0, 6), textcoords="offset points", ha=aside, fontsize=8, color=INK
                )
        axes.set_yticks(range(len(names)), [_words(name) for name in names])
        axes.set(xlim=(-0.03, 1.03), ylim=(len(names) - 0.4, -0.8), title="Every fold's figures; the worst is named")
        handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # one of each kind
        axes.legend(handles.values(), handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def draw_scores(
    path: Path, labels: np.ndarray, scores: np.ndarray, folds: np.ndarray, names: Sequence[str], thresholds: np.ndarray
) -> None:
    """Draw the scores of each fold's test slides over each other, and the fold's threshold.

    Args:
        path: PNG to write.
        labels: (n,) 1 or 0.
        scores: (n,) slide scores.
        folds: (n,) the number of the fold in `names`.
        names: of the folds.
        thresholds: (n,) of the fold.
    """
    order = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
    aside = ((order * 7) % 11 - 5) * 0.013  # a fixed scatter, so that equal scores are seen apart
    size = 30 if len(scores) < 2000 else 8
    with figure_of(path, 4.4) as (figure, ((axes,),)):
        for label, word, colour, marker, side in ((0, "negative", NEGATIVE, "o", -0.17), (1, "positive", POSITIVE, "^", 0.17)):
            own = labels == label
            axes.scatter(
                folds[own] + side + aside[own], scores[own], size, color=colour, marker=marker, alpha=0.6, label=f"{word} slides"
            )
        for fold in range(len(names)):
            if (folds == fold).any():
                span, threshold = [fold - 0.4, fold + 0.4], thresholds[folds == fold][0]
                axes.plot(span, [threshold, threshold], color=INK, linewidth=1.5, label="threshold" if fold == 0 else None)
        axes.set_xticks(range(len(names)), names, rotation=0 if sum(map(len, names)) <= MAX_CHARACTERS else 90)
        axes.set(xlim=(-0.6, len(names) - 0.4), ylim=(-0.03, 1.03), ylabel="slide score", title="Scores of the test slides")
        axes.grid(False, axis="x")
        figure.legend(loc="outside lower center", ncols=3)


def _words(name: str) -> str:
    """Return "slide balanced accuracy" of "slide balanced_accuracy"; of the Brier score that it is to be low."""
    words = name.replace("_", " ").replace("in positive ", "in positive slides, ")
    return f"{words} (low is good)" if is_low_good(name) else words


def is_low_good(name: str) -> bool:
    """Return whether a figure is an error: of all that are averaged over folds, the Brier score alone."""
    return name.endswith("brier")
