"""Pictures of a validation elsewhere: scores and colours beside those that the export recorded, subgroups, recalibration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from hnm.report.draw_style import BLUE, GREY, INK, LIGHT_GREY, NEGATIVE, ORANGE, POSITIVE, VERMILLION, figure_of
from hnm.statistics.colour import COLOURS
from shards.errors import InputError

BINS = np.linspace(0, 1, 21)
FORESTS = (("auc", "AUC"), ("sensitivity", "sensitivity"), ("specificity", "specificity"))
FAR = 8.0  # deviations at which a picture of colours ends


def draw_scores(
    path: Path,
    labels: np.ndarray,
    scores: np.ndarray,
    recorded: Mapping[str, Any] | None,
    frozen: float,
    rechosen: float | None,
) -> None:
    """Draw how slides of each class score here, and how the validation slides of the model did.

    Args:
        path: PNG to write.
        labels: (n,) 1 or 0.
        scores: (n,) slide scores.
        recorded: `reference["scores"]` of the export, None without one.
        frozen: the threshold as exported.
        rechosen: one chosen here, None without one.
    """
    with figure_of(path, 4.2, 1, 2, sharey=True) as (_, (panels,)):
        for axes, label, word, colour in ((panels[0], 0, "negative", NEGATIVE), (panels[1], 1, "positive", POSITIVE)):
            here, then = scores[labels == label], np.array((recorded or {}).get(word, []))
            if len(here):
                weights = np.full(len(here), 1 / len(here))
                axes.hist(
                    here,
                    BINS,
                    weights=weights,
                    color=colour,
                    alpha=0.55,
                    edgecolor="white",
                    label=f"here ({len(here)})",
                )
            if len(then):
                weights, name = np.full(len(then), 1 / len(then)), f"its own validation slides ({len(then)})"
                axes.hist(then, BINS, weights=weights, histtype="step", color=INK, linewidth=1.6, label=name)
            axes.axvline(frozen, color=GREY, linestyle="--", label=f"frozen threshold, {frozen:.3f}")
            if rechosen is not None:
                axes.axvline(rechosen, color=ORANGE, linestyle=":", label=f"re-chosen, {rechosen:.3f}")
            axes.set(xlim=(-0.03, 1.03), xlabel="slide score", title=f"{word[0].upper()}{word[1:]} slides")
            axes.legend()
        panels[0].set_ylabel("share of the slides")


def draw_colours(path: Path, colours: Mapping[str, np.ndarray], recorded: Mapping[str, Any] | None) -> None:
    """Draw where the slides' colours lie, in standard deviations of those that the export recorded.

    Args:
        path: PNG to write.
        colours: by name the (n,) values of the slides, NaN where unknown.
        recorded: `reference["colours"]` of the export.

    Raises:
        InputError: there is nothing to compare.
    """
    if not recorded or not recorded["values"]:
        raise InputError("the export does not record colours")
    if not np.isfinite(colours[COLOURS[0]]).any():
        raise InputError("the colours of no slide are known")
    places = np.arange(len(COLOURS))[::-1]
    with figure_of(path, 4.4) as (_, ((axes,),)):
        for place, name in zip(places, COLOURS, strict=True):
            then, here = np.array(recorded["values"][name]), colours[name][np.isfinite(colours[name])]
            deviation = float(then.std()) or 1.0
            for values, shift, colour, who in (
                (then, 0.17, LIGHT_GREY, "recorded by the export"), (here, -0.17, BLUE, "here")
            ):  # fmt: skip
                ends = np.quantile((values - then.mean()) / deviation, (0.05, 0.25, 0.5, 0.75, 0.95)).clip(-FAR, FAR)
                label = who if place == places[0] else None
                axes.plot(ends[[0, 4]], [place + shift] * 2, color=colour, linewidth=1.5, solid_capstyle="butt")
                axes.plot(
                    ends[[1, 3]], [place + shift] * 2, color=colour, linewidth=9, solid_capstyle="butt", label=label
                )
                axes.plot(ends[2], place + shift, "|", color=INK, markersize=11, markeredgewidth=2)
        axes.axvline(0, color=GREY, linewidth=1)
        axes.set_yticks(places, [name.replace("_", " ") for name in COLOURS])
        axes.set(
            xlabel=f"standard deviations of the recorded slides (cut at {FAR:g})",
            title="Colours of slides: half of them, nine tenths",
        )
        axes.legend(loc="best")


def draw_subgroups(path: Path, subgroups: Mapping[str, Sequence[Mapping[str, Any]]], whole: Mapping[str, Any]) -> None:
    """Draw AUC, sensitivity and specificity of each subgroup with its interval; the line is that of all slides.

    Args:
        path: PNG to write.
        subgroups: of validation.json.
        whole: its `frozen`.

    Raises:
        InputError: there are none.
    """
    rows = [
        (f"{column}: {group['value']} ({group['slides']})", group)
        for column, groups in subgroups.items()
        for group in groups
    ]
    if not rows:
        raise InputError("no --by was given")
    with figure_of(path, 1.4 + 0.34 * len(rows), 1, 3, sharey=True) as (_, (panels,)):
        for axes, (name, title) in zip(panels, FORESTS, strict=True):
            for place, (_, group) in enumerate(rows):
                _point(axes, place, group["figures"][name], group["intervals"][name])
            if (value := whole["figures"][name]) is not None:
                axes.axvline(value, color=GREY, linestyle="--", linewidth=1.2)
            axes.set(xlim=(-0.03, 1.03), title=title)
        panels[0].set_yticks(range(len(rows)), [_short(label) for label, _ in rows])
        panels[0].set_ylim(len(rows) - 0.4, -0.6)


def _point(axes: Axes, place: int, value: float | None, interval: Mapping[str, Any]) -> None:
    if value is None:
        axes.text(0.5, place, "not defined", ha="center", va="center", color=GREY, fontsize=9)
        return
    if interval["low"] is not None:
        axes.plot([interval["low"], interval["high"]], [place, place], color=BLUE)
    axes.plot(value, place, "o", color=BLUE)


def draw_recalibration(path: Path, found: Mapping[str, Any] | None) -> None:
    """Draw the calibration of the remaining slides before and after recalibration.

    Args:
        path: PNG to write.
        found: `recalibration` of validation.json.

    Raises:
        InputError: there is none.
    """
    if found is None:
        raise InputError("no --recalibrate was given")
    with figure_of(path, 4.6, 1, 2, sharey=True) as (_, (panels,)):
        for axes, when, colour in ((panels[0], "before", VERMILLION), (panels[1], "after", BLUE)):
            bins = found[f"bins_{when}"]
            axes.plot([0, 1], [0, 1], color=LIGHT_GREY, linestyle=":", label="perfectly calibrated")
            sizes = 25 + 250 * np.array([part["num"] for part in bins]) / found["measured_on"]["slides"]
            places, shares = [part["mean_score"] for part in bins], [part["positive_share"] for part in bins]
            axes.plot(places, shares, color=colour, zorder=1)
            axes.scatter(
                places, shares, sizes, color=colour, zorder=2, label="a tenth of the scale; size: slides in it"
            )
            error = found["figures"][f"{when}_calibration_error"]
            axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal", xlabel="mean score",
                     title=f"{when[0].upper()}{when[1:]}; error {error:.3f}")  # fmt: skip
            axes.legend(loc="upper left")
        panels[0].set_ylabel("truly positive")


def _short(text: str) -> str:
    return text if len(text) <= 34 else f"{text[:33]}…"
