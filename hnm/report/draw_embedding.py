"""A map of the encoder's features: the same patches coloured by truth, by pseudo label and by slide.

    sample of patches ──start encoder, chosen encoder──▶ features (n, dim) ──PCA──▶ (n, 2)

The features of finished rounds are deleted (they are the largest files of a run), so a bounded sample is embedded anew:
it costs two passes over 1,200 patches, works for runs of any age, and lets the start encoder be shown beside the result.
"""

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes

from hnm.encoder.augment import to_float
from hnm.encoder.contrastive_model import load_model
from hnm.mining.coordinator import load_mined
from hnm.report.draw_style import (
    BLUE,
    GREEN,
    GREY,
    LIGHT_GREY,
    NEGATIVE,
    ORANGE,
    POSITIVE,
    PURPLE,
    SKY,
    VERMILLION,
    figure_of,
)
from hnm.report.record import RunRecord
from hnm.run_rounds import encoder_of_round, round_folder
from shards.errors import InputError
from shards.reading.reader import PatchReader
from shards.seeding import numpy_generator

NUM_PATCHES = 1200
MINED_SHARE = 0.25  # of the sample, for hard negatives and for candidates each: a uniform draw would miss both
BATCH = 128
SLIDE_COLOURS = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY)
SLIDE_MARKERS = ("o", "^", "s", "D", "v", "P")


def draw_embedding(path: Path, record: RunRecord, reader: PatchReader, device: torch.device) -> None:
    """Draw the maps of the start encoder and of the chosen round's encoder, one above the other.

    Raises:
        InputError: an encoder's file is missing, or there are too few patches.
    """
    ids = sample_patches(record)
    if len(ids) < 3:
        raise InputError(f"{len(ids)} patches are too few for a map")
    rounds = [0] if record.chosen == 0 else [0, record.chosen]
    images = torch.cat([reader.read(ids[start : start + BATCH]) for start in range(0, len(ids), BATCH)])
    with figure_of(path, 3.9 * len(rounds), len(rounds), 3) as (_, axes):
        for row, round_ in enumerate(rounds):
            features = embed_images(record, round_, images, device)
            places, method = project(features)
            name = "start encoder" if round_ == 0 else f"encoder of round {round_} (chosen)"
            for column, paint in enumerate((_by_truth, _by_pseudo_label, _by_slide)):
                paint(axes[row, column], places, ids, record)
                axes[row, column].set_xticks([])
                axes[row, column].set_yticks([])
                if row == 0:
                    axes[row, column].legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2, fontsize=9)
            axes[row, 0].set_ylabel(f"{name}\n{method}")


def sample_patches(record: RunRecord) -> np.ndarray:
    """Return up to `NUM_PATCHES` increasing patch ids: of the mined sets a quarter each, the rest uniform over slides.

    Their shares are therefore not those of the cohort.
    """
    random, study = numpy_generator(record.config.seed, "embedding map"), record.study
    mined = load_mined(round_folder(record.run, record.chosen))
    chosen = []
    for pool in (mined.negatives, mined.candidates):
        chosen.append(random.permutation(pool)[: round(MINED_SHARE * NUM_PATCHES)])
    slides = np.concatenate([study.train, study.validation, study.test])
    per_slide = -(-(NUM_PATCHES - sum(len(ids) for ids in chosen)) // len(slides))
    for slide in slides:
        own = np.arange(*study.cohort.patch_bounds[slide : slide + 2])
        chosen.append(random.permutation(own)[:per_slide])
    ids = np.unique(np.concatenate(chosen))
    return np.sort(random.permutation(ids)[:NUM_PATCHES])


@torch.inference_mode()
def embed_images(record: RunRecord, round_: int, images: torch.Tensor, device: torch.device) -> np.ndarray:
    """Return the (n, dim) float32 features that a round's encoder gives to (n, 3, h, w) uint8 patches."""
    path = encoder_of_round(record.run, round_)
    encoder = load_model(path, record.config.encoder, record.config.seed).encoder.to(device).eval()
    blocks = [
        encoder(to_float(images[start : start + BATCH].to(device))).cpu() for start in range(0, len(images), BATCH)
    ]
    return torch.cat(blocks).float().numpy()


def project(features: np.ndarray) -> tuple[np.ndarray, str]:
    """Return places (n, 2) of features (n, dim) on a map, and how they were found.

    The two main directions of the features (PCA) keep distances true but show only part of them: the share of the variance
    is told.
    """
    centred = features - features.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    share = float((singular[:2] ** 2).sum() / max(float((singular**2).sum()), 1e-12))
    return centred @ directions[:2].T, f"PCA, {share:.0%} of the variance"


def _by_truth(axes: Axes, places: np.ndarray, ids: np.ndarray, record: RunRecord) -> None:
    truth = record.study.cohort.patches.truth[ids]
    _points(axes, places, truth == -1, LIGHT_GREY, ".", "unknown")
    _points(axes, places, truth == 0, NEGATIVE, "o", "negative")
    _points(axes, places, truth == 1, POSITIVE, "^", "positive")
    axes.set_title("patch truth")


def _by_pseudo_label(axes: Axes, places: np.ndarray, ids: np.ndarray, record: RunRecord) -> None:
    mined = load_mined(round_folder(record.run, record.chosen))
    hard, candidate = np.isin(ids, mined.negatives), np.isin(ids, mined.candidates)
    _points(axes, places, ~hard & ~candidate, LIGHT_GREY, ".", "not mined")
    _points(axes, places, hard, NEGATIVE, "o", "hard negative")
    _points(axes, places, candidate, POSITIVE, "^", "positive candidate")
    axes.set_title(f"mined in round {record.chosen}")


def _by_slide(axes: Axes, places: np.ndarray, ids: np.ndarray, record: RunRecord) -> None:
    slide_of = record.study.cohort.patches.slide[ids]
    slides, counts = np.unique(slide_of, return_counts=True)
    largest = np.sort(slides[np.argsort(-counts, kind="stable")[: len(SLIDE_COLOURS)]])
    _points(axes, places, ~np.isin(slide_of, largest), LIGHT_GREY, ".", "other slides")
    for slide, colour, marker in zip(largest, SLIDE_COLOURS, SLIDE_MARKERS, strict=False):
        name = str(record.study.cohort.slide_ids[slide])
        _points(axes, places, slide_of == slide, colour, marker, name if len(name) < 16 else f"{name[:15]}…")
    axes.set_title("slide")


def _points(axes: Axes, places: np.ndarray, chosen: np.ndarray, colour: str, marker: str, label: str) -> None:
    if chosen.any():
        behind = colour in (LIGHT_GREY, GREY)
        size = 10 if behind else 20
        axes.scatter(
            places[chosen, 0], places[chosen, 1], s=size, c=colour, marker=marker, alpha=0.65, linewidths=0, label=label,
            zorder=1 if behind else 2, rasterized=True,
        )  # fmt: skip
