"""How the scores and the losses went, round by round: histograms of slides and patches, and the training curves."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hnm.encoder.simclr import steps_per_epoch
from hnm.report.draw_style import BLUE, GREEN, GREY, NEGATIVE, ORANGE, POSITIVE, PURPLE, evenly_spread, figure_of, shade
from hnm.report.record import RunRecord

MAX_ROUNDS = 5  # histograms side by side
BINS = np.linspace(0, 1, 21).tolist()


def draw_histograms(path: Path, record: RunRecord) -> None:
    """Draw a column per round: the scores of positive and negative slides, and of their patches."""
    rounds = evenly_spread(record.num_rounds, MAX_ROUNDS, also=[record.chosen])
    study = record.study
    with figure_of(path, 6.4, 3, len(rounds), sharex=True, sharey="row") as (figure, axes):
        for column, round_ in enumerate(rounds):
            by_slide, by_patch = record.slide_scores_of(round_), record.patch_scores_of(round_)
            for row, name in enumerate(("train", "validation")):
                slides = getattr(study, name)
                _histogram(axes[row, column], by_slide[slides], study.labels[slides], "slides")
            of_validation = study.patches_of(study.validation)
            labels = study.labels[study.cohort.patches.slide[of_validation]]
            _histogram(axes[2, column], by_patch[of_validation], labels, "patches")
            axes[2, column].set_yscale("log")
            axes[1, column].axvline(
                record.decisions[round_]["validation"]["threshold"], color=GREY, linestyle="--", linewidth=1.2
            )
            axes[0, column].set_title(f"round {round_}{' (chosen)' if round_ == record.chosen else ''}")
            axes[2, column].set_xlabel("score")
        for row, label in enumerate(("training\nslides", "validation\nslides", "validation\npatches (log)")):
            axes[row, 0].set_ylabel(label)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)


def _histogram(axes: Axes, scores: np.ndarray, labels: np.ndarray, what: str) -> None:
    """Draw the scores of negative and positive slides: one filled, one outlined, so that both are seen where they meet."""
    kept = np.isfinite(scores)
    scores, labels = scores[kept], labels[kept]
    axes.hist(scores[labels == 0], BINS, color=NEGATIVE, alpha=0.45, label="negative slides")
    axes.hist(scores[labels == 1], BINS, color=POSITIVE, histtype="step", linewidth=2.0, label="positive slides")


def draw_training(path: Path, record: RunRecord) -> None:
    """Draw what events.jsonl tells: the losses of each phase, and the figures of each round."""
    with figure_of(path, 6.6, 2, 2) as (_, axes):
        _aggregator_losses(axes[0, 0], record)
        draw_encoder_losses(axes[0, 1], record)
        _by_round(
            axes[1, 0],
            record,
            {
                "slide AUC": ("o", BLUE, lambda d: d["validation"]["auc"]),
                "F1 at the threshold": ("s", ORANGE, lambda d: d["validation"]["f1"]),
                "patch AUC": ("^", GREEN, lambda d: d["validation_instance_auc"]),
            },
        )
        axes[1, 0].set(title="Validation, by round", ylabel="figure", ylim=(0, 1.04))
        _by_round(
            axes[1, 1],
            record,
            {
                "self-paced positives": ("o", BLUE, lambda d: d["witness_rate_self_paced"]),
                "all positive candidates": ("s", ORANGE, lambda d: d["witness_rate_candidates"]),
                "known mimics of the hard negatives": ("^", GREEN, lambda d: d.get("mimic_share_hard_negatives")),
                "known mimics of all negatives": ("v", GREY, lambda d: d.get("mimic_share_negatives")),
            },
        )
        axes[1, 1].set_visible(record.knows_truth or record.study.cohort.mimics is not None)
        axes[1, 1].set(title="What was mined, by round", ylabel="share truly positive, or known mimics", ylim=(0, 1.04))


def series_of(events: list[dict[str, Any]], phase: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (steps, values) of one metric, sorted by step; of a step told twice (a resumed run) the later value.

    Args:
        events: of events.jsonl, in order.
        phase: such as "finetune".
        name: such as "negative_loss".

    Returns:
        (n,) int64, counted as that phase counts them, and (n,) float64.
    """
    value_of = {
        event["step"]: event[name]
        for event in events
        if event.get("event") == "metrics" and event.get("phase") == phase and name in event
    }
    steps = sorted(value_of)
    return np.array(steps, np.int64), np.array([value_of[step] for step in steps], np.float64)


def points_of(events: list[dict[str, Any]], phase: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (epochs, values) of a loss that was told at some optimizer steps (hnm/encoder/step_curve.py), as `series_of` does.

    Returns:
        (n,) float64 epochs done at that step, with the part of the one under way, and (n,) float64.
    """
    found = {
        event["step"]: (event["epoch"], event[name])
        for event in events
        if event.get("event") == "step" and event.get("phase") == phase and name in event
    }
    table = np.array([found[step] for step in sorted(found)], np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _aggregator_losses(axes: Axes, record: RunRecord) -> None:
    epochs = record.config.aggregate.epochs
    for name, line, label in (("train_loss", ":", "training"), ("validation_loss", "-", "validation")):
        steps, values = series_of(record.events, "aggregate", name)
        for round_ in range(record.num_rounds):
            own = steps // epochs == round_
            colour = shade(round_ / max(1, record.num_rounds - 1))
            axes.plot(
                steps[own] % epochs + 1, values[own], line, color=colour, marker=".", label=f"round {round_}, {label}"
            )
    axes.set(title="Aggregator loss, a line per round", xlabel="epoch of the round", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    if record.num_rounds <= MAX_ROUNDS:
        axes.legend(ncols=2, fontsize=9, loc="best")
    _say_if_empty(axes)


class Losses(NamedTuple):
    """One loss of the encoder: the means of epochs, each at the epoch's end, and single steps between. All are (n,) float64."""

    ends: np.ndarray
    means: np.ndarray
    places: np.ndarray
    losses: np.ndarray


def encoder_losses(events: list[dict[str, Any]], pretrain_epochs: int, per_epoch: int) -> dict[str, Losses]:
    """Return the encoder's losses by kind, on one axis: epochs done, in pretraining and then in the rounds.

    Args:
        events: of events.jsonl, in order.
        pretrain_epochs: of pretraining; they count if it was done in this run.
        per_epoch: optimizer steps of one of them: pretraining counts steps, fine-tuning epochs.

    Returns:
        By "pretraining", "negative" and "positive" those that were told.
    """
    steps, means = series_of(events, "pretrain", "loss")
    found = {"pretraining": Losses(steps / per_epoch, means, *points_of(events, "pretrain", "step_loss"))}
    first = pretrain_epochs if len(steps) else 0
    for kind in ("negative", "positive"):
        epochs, means = series_of(events, "finetune", f"{kind}_loss")
        places, losses = points_of(events, "finetune", f"step_{kind}_loss")
        found[kind] = Losses(first + epochs + 1.0, means, first + places, losses)
    return {kind: losses for kind, losses in found.items() if len(losses.ends)}


def draw_encoder_losses(axes: Axes, record: RunRecord) -> None:
    """Draw the encoder's losses over the epochs done, a thin line through single steps and a mark at each epoch's end."""
    config, study = record.config, record.study
    per_epoch = steps_per_epoch(study.num_patches_of(np.flatnonzero(study.encoder_slides)), config.pretrain)
    found = encoder_losses(record.events, config.pretrain.epochs, per_epoch)
    for kind, colour, marker, label in (
        ("pretraining", PURPLE, "D", "pretraining (NT-Xent)"),
        ("negative", BLUE, "o", "fine-tuning, negative-anchored"),
        ("positive", ORANGE, "s", "fine-tuning, positive-anchored"),
    ):
        if kind in found:
            ends, means, places, losses = found[kind]
            axes.plot(places, losses, color=colour, linewidth=0.8, alpha=0.4)
            axes.plot(ends, means, color=colour, marker=marker, markersize=5, label=label)
    first = config.pretrain.epochs if "pretraining" in found else 0
    for round_ in range(1, record.num_rounds - 1):
        axes.axvline(first + round_ * config.finetune.epochs_per_round, color=GREY, linestyle=":", linewidth=1)
    axes.set(title="Encoder loss; dotted: a new round begins", ylabel="loss (thin: of single steps)")
    axes.set_xlabel("epochs done (of pretraining: over all training\npatches; of fine-tuning: over the drawn negatives)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if found:
        axes.legend()
    _say_if_empty(axes)


def _by_round(axes: Axes, record: RunRecord, figures: dict[str, Any]) -> None:
    for label, (marker, colour, figure) in figures.items():
        known = [(r, figure(d)) for r, d in enumerate(record.decisions) if figure(d) is not None]
        if known:
            axes.plot(*zip(*known, strict=True), color=colour, marker=marker, label=label)
    axes.axvline(record.chosen, color=GREY, linestyle="--", linewidth=1.2, label="chosen round", zorder=0)
    axes.set_xticks(evenly_spread(record.num_rounds, 12))
    axes.set_xlabel("round")
    axes.legend(loc="best")
    if len(axes.get_lines()) == 1:
        axes.text(
            0.5, 0.5, "not known: the cohort has no patch truth", transform=axes.transAxes, ha="center", color=GREY
        )


def _say_if_empty(axes: Axes) -> None:
    if not any(np.size(line.get_xdata()) for line in axes.get_lines()):
        axes.text(0.5, 0.5, "nothing in events.jsonl", transform=axes.transAxes, ha="center", color=GREY)
