"""How far a slide's score can be believed, and how many lesions are found: calibration and FROC, side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from hnm.report.draw_style import BLUE, GREY, LIGHT_GREY, NEGATIVE, POSITIVE, VERMILLION, figure_of
from hnm.statistics.calibration import calibration_curve
from hnm.statistics.froc import RATES


def draw_calibration(path: Path, labels: np.ndarray, scores: np.ndarray, split: str) -> None:
    """Draw the share of truly positive slides against their score, and below it how many slides score so.

    Args:
        path: PNG to write.
        labels: (n,) 1 or 0; one class will do.
        scores: (n,) slide scores in [0, 1].
        split: its name, for the title.

    Raises:
        InputError: a score is no probability.
    """
    curve = calibration_curve(labels, scores)
    bins = curve["bins"]
    with figure_of(path, 4.6, 1, 2) as (_, ((reliability, counts),)):
        reliability.plot([0, 1], [0, 1], color=LIGHT_GREY, linestyle=":", label="perfectly calibrated")
        places, shares = [part["mean_score"] for part in bins], [part["positive_share"] for part in bins]
        reliability.plot(places, shares, color=BLUE, zorder=1)
        sizes = 25 + 250 * np.array([part["num"] for part in bins]) / len(scores)
        reliability.scatter(
            places, shares, sizes, color=BLUE, zorder=2, label="a tenth of the scale; size: slides in it"
        )
        error = curve["expected_calibration_error"]
        reliability.set(
            xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal", xlabel="mean score", ylabel="truly positive",
            title=f"Calibration, {split} slides; error {error:.2f}",
        )  # fmt: skip
        reliability.legend(loc="lower right")
        edges = np.linspace(0, 1, 11)
        for label, word, colour, hatch in ((1, "positive", POSITIVE, ""), (0, "negative", NEGATIVE, "//")):
            own = scores[labels == label]
            counts.hist(
                own, edges, color=colour, alpha=0.55, hatch=hatch, edgecolor="white", label=f"{word} ({len(own)})"
            )
        counts.set(xlim=(-0.03, 1.03), xlabel="score", ylabel="slides", title="How many slides score so")
        counts.legend()


def draw_froc(path: Path, froc: Mapping[str, Any]) -> None:
    """Draw the FROC curve with the six rates at which it is read.

    Args:
        path: PNG to write.
        froc: as `hnm.evidence.detect.froc_part` returns it.
    """
    curve, low, high = froc["curve"], froc["interval"]["low"], froc["interval"]["high"]
    per_slide, sensitivity = np.array(curve["false_positives_per_slide"]), np.array(curve["sensitivity"])
    with figure_of(path, 4.2, 1, 2) as (_, ((whole, rates),)):
        # after its last corner the curve is level: no lower threshold is left
        end = max(RATES[-1], per_slide[-1])
        whole.plot(np.append(per_slide, end), np.append(sensitivity, sensitivity[-1]), color=BLUE)
        whole.plot(
            RATES, [froc["sensitivity_at"][f"{rate:g}"] for rate in RATES], "o", color=VERMILLION, label="read here"
        )
        whole.set(
            xscale="symlog", xlim=(0, end), ylim=(0, 1.03), xlabel="false positives per slide", ylabel="lesions found"
        )
        interval = "" if low is None else f" ({low:.2f} to {high:.2f})"
        whole.set_title(f"FROC {froc['score']:.3f}{interval}, {froc['num_lesions']} lesions")
        whole.legend(loc="lower right")
        _bars(rates, froc)


def _bars(axes: Axes, froc: Mapping[str, Any]) -> None:
    names, values = list(froc["sensitivity_at"]), list(froc["sensitivity_at"].values())
    axes.bar(names, values, color=BLUE, width=0.6)
    axes.axhline(froc["score"], color=GREY, linestyle="--", label="mean: the FROC score")
    for place, value in enumerate(values):
        axes.annotate(f"{value:.2f}", (place, value), (0, 3), textcoords="offset points", ha="center")
    axes.set(ylim=(0, 1.12), xlabel="false positives per slide", ylabel="lesions found", title="Read at six rates")
    axes.legend(loc="upper left")
