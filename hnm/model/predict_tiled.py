"""One slide of a cohort that is cut already, from its patches to its score: what `predict_slide` does for a file.

cohort ──reader: JPEGs of one slide──▶ batches ──encoder──▶ features on disk ──aggregator──▶ scores
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from hnm.aggregator.bags import as_rows, file_of_rows
from hnm.encoder.augment import to_float
from hnm.model.model import Model
from hnm.model.predict import score_features
from hnm.model.predictions import MPP_SLACK
from hnm.report.heatmap import ScoredPatches
from hnm.statistics.colour import ColourCounts
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.reading.reader import PatchReader
from shards.tiling.mpp import patch_level0_of

TOLD_SETTINGS = (
    "stain",
    "background",
    "jpeg_quality",
    "min_tissue_share",
)  # they move scores, and are no reason to refuse


@torch.inference_mode()
def predict_tiled(
    cohort: Cohort,
    slide: int,
    model: Model,
    reader: PatchReader,
    batch_size: int,
    progress: Callable[[Iterable[Any], str, int], Iterable[Any]],
    scratch: Path | None = None,
) -> tuple[float, ScoredPatches, ColourCounts]:
    """Score slide number `slide` and all its patches; it has at least one.

    Args:
        cohort: whose slide it is.
        slide: its number.
        model: cut as the cohort is, see `refuse_other_patches`.
        reader: of the cohort.
        batch_size: patches a forward pass.
        progress: wraps the loop over batches.
        scratch: folder for the features while the slide is scored; None: the system's.

    Raises:
        UnreadablePatchError: a patch cannot be read.
        FloatingPointError: the model gives no finite features, or no finite score.
    """
    first, stop = map(int, cohort.patch_bounds[slide : slide + 2])
    colours = ColourCounts()
    rows = [np.arange(at, min(at + batch_size, stop)) for at in range(first, stop, batch_size)]
    with TemporaryDirectory(prefix="hnm-validate-", dir=scratch) as name:
        folder = Path(name)
        with open(folder / file_of_rows(0, stop - first), "wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": (stop - first, model.encoder.feature_dim)}
            np.lib.format.write_array_header_1_0(file, header)
            for ids, images in progress(reader.batches(iter(rows)), str(cohort.slide_ids[slide]), len(rows)):
                colours.add(images.permute(0, 2, 3, 1).numpy())
                features = model.encoder(to_float(images.to(model.device)))
                names = [f"patch {patch}" for patch in ids.tolist()]
                file.write(as_rows(features, names.__getitem__).astype("<f2").tobytes())
        score, scores = score_features(folder, stop - first, model)
    patches = cohort.patches
    places = patches.x_level0[first:stop], patches.y_level0[first:stop]
    return score, ScoredPatches(*places, patch_level0_of(cohort, slide), scores), colours


def refuse_other_patches(cohort: Cohort, model: Model, reader: PatchReader) -> list[str]:
    """Refuse a cohort whose patches have another size, or show tissue of another size, than the model has seen.

    Returns:
        What else is cut otherwise, in words.

    Raises:
        InputError: naming both, and the remedy.
    """
    cohort.require_pictures("hnm validate")
    tile, settings = model.config.tile, cohort.info.get("settings", {})
    again = f"Cut these slides as the model's were: hnm tile slides.csv COHORT tile.patch_px={tile.patch_px}"
    again += f" tile.mpp={tile.mpp:g}" if tile.mpp else ""
    height, width = reader.image_shape
    if (height, width) != (tile.patch_px, tile.patch_px):
        raise InputError(
            f"{cohort.root}: patches of {width} x {height} px, and the model saw {tile.patch_px} px. {again}"
        )
    here, there = _range(settings.get("mpp"), _source_mpp(cohort)), _range(tile.mpp, model.about.data["source_mpp"])
    told = []
    if here is None or there is None:
        whose = "these patches" if here is None else "the model's patches"
        told.append(
            f"microns per pixel of {whose} are unknown: whether tissue has the size that the model knows is not checked"
        )
    elif here[1] < there[0] / MPP_SLACK or here[0] > there[1] * MPP_SLACK:
        raise InputError(
            f"{cohort.root}: patches of {_told(here)} microns per pixel, and the model saw {_told(there)}: the tissue looks "
            f"larger or smaller to it. {again}"
        )
    known = tile.model_dump(mode="json")
    differs = [
        f"{name} {settings[name]} here, {known[name]} there"
        for name in TOLD_SETTINGS
        if settings.get(name, known[name]) != known[name]
    ]
    if bool(settings.get("points_file")) != (tile.points_file is not None):
        differs.append("patches cut at points on one side, on a grid on the other")
    return told + ([f"the slides were cut otherwise than the model's: {'; '.join(differs)}"] if differs else [])


def _source_mpp(cohort: Cohort) -> list[float] | None:
    known = (
        [mpp for mpp in cohort.slides["source_mpp"].to_pylist() if mpp]
        if "source_mpp" in cohort.slides.column_names
        else []
    )
    return [min(known), max(known)] if known else None


def _range(mpp: float | None, native: list[float] | None) -> tuple[float, float] | None:
    """Return the lowest and highest microns per pixel of patches: as cut, or native."""
    if mpp:
        return mpp, mpp
    return (native[0], native[1]) if native else None


def _told(mpp: tuple[float, float]) -> str:
    return f"{mpp[0]:.3g}" if mpp[0] == mpp[1] else f"{mpp[0]:.3g} to {mpp[1]:.3g}"
