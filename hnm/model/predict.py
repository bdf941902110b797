"""One new slide, from file to score: cut on the fly, embedded batch by batch, scored as in training.

    slide ──survey──▶ candidates ──threads: read, filter, JPEG──▶ batches ──encoder──▶ features on disk ──aggregator──▶ scores

Memory holds a few batches and the thumbnail, however large the slide: features go to a temporary file, 2 bytes a number.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch

from hnm.aggregator.bags import Bags, as_rows, file_of_rows, write_index
from hnm.aggregator.score import predict_bag, score_patches, slide_scores
from hnm.encoder.augment import to_float
from hnm.model.model import Model
from hnm.report.heatmap import ScoredPatches
from hnm.statistics.colour import ColourCounts
from shards.reading.decode import decode_into
from shards.tiling.jpeg import PatchJpeg, in_order, jpeg_cutter
from shards.tiling.slide_reader import SlideReader, open_slide
from shards.tiling.survey import Survey, survey_slide, why_empty
from shards.tiling.tile_config import TileConfig
from shards.tiling.unit import SlideJob

T = TypeVar("T")
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]
AHEAD_BATCHES = 3  # patches cut ahead of the encoder


@dataclass(frozen=True)
class PredictedSlide:
    """What a model says about one slide.

    Attributes:
        score: of the slide, 0 to 1; None: it has no patch.
        why_empty: why it has none, else "".
        patches: with their scores.
        survey: thumbnail, microns per pixel, annotation.
        colours: of its patches.
    """

    score: float | None
    why_empty: str
    patches: ScoredPatches
    survey: Survey
    colours: ColourCounts


def predict_slide(
    job: SlideJob, model: Model, batch_size: int, num_threads: int, progress: Progress, scratch: Path | None = None
) -> PredictedSlide:
    """Score one slide and all its patches.

    Args:
        job: the slide, and where to cut it.
        model: whose `config.tile` says how to cut.
        batch_size: patches a forward pass.
        num_threads: that read the slide.
        progress: wraps the loop over batches.
        scratch: folder for the features while the slide is scored; None: the system's.

    Raises:
        InputError: the slide cannot be read, or its microns per pixel are unknown or do not fit.
        FloatingPointError: the model gives no finite features, or no finite score.
    """
    return predict_targets_of_slide(job, [model], batch_size, num_threads, progress, scratch)[0]


def predict_targets_of_slide(
    job: SlideJob, models: Sequence[Model], batch_size: int, num_threads: int, progress: Progress, scratch: Path | None = None
) -> list[PredictedSlide]:
    """Score one slide by models of one encoder, which sees it once; see `predict_slide`."""
    config, colours = models[0].config.tile, ColourCounts()
    with open_slide(job.slide.path) as slide, TemporaryDirectory(prefix="hnm-predict-", dir=scratch) as folder:
        survey = survey_slide(slide, job, config)
        kept = embed_candidates(slide, survey, models[0], batch_size, num_threads, progress, job, Path(folder), colours)
        sites, why = survey.sites.take(kept), "" if len(kept) else why_empty(survey, slide)
        found = []
        for model in models:
            score, scores = score_features(Path(folder), len(kept), model) if len(kept) else (None, np.empty(0, np.float32))
            patches = ScoredPatches(sites.x_level0, sites.y_level0, survey.patch_level0, scores)
            found.append(PredictedSlide(score, why, patches, survey, colours))
        return found


@torch.inference_mode()
def embed_candidates(
    slide: SlideReader,
    survey: Survey,
    model: Model,
    batch_size: int,
    num_threads: int,
    progress: Progress,
    job: SlideJob,
    folder: Path,
    colours: ColourCounts,
) -> list[int]:
    """Write the features of the slide's tissue patches to `folder` (see hnm/aggregator/bags.py); return their site numbers.

    Their pixels are counted in `colours`.
    """
    kept: list[int] = []
    with open(folder / file_of_rows(0, len(survey.candidates)), "wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (len(survey.candidates), model.encoder.feature_dim)}
        np.lib.format.write_array_header_1_0(file, header)
        with ThreadPoolExecutor(num_threads, "slide-reader") as pool:
            see = seen_by(jpeg_cutter(slide, survey, model.config.tile), model.config.tile)
            batches = in_batches(
                in_order(see, survey.candidates.tolist(), pool, AHEAD_BATCHES * batch_size), batch_size
            )
            num_batches = -(-len(survey.candidates) // batch_size)
            for batch in progress(batches, job.slide.slide_id, num_batches):
                numbers = [number for number, patch in batch if patch is not None]
                if numbers:
                    patches = np.stack([patch for _, patch in batch if patch is not None])
                    colours.add(patches)
                    images = torch.from_numpy(patches)
                    features = model.encoder(to_float(images.permute(0, 3, 1, 2).to(model.device)))
                    names = [f"site {number}" for number in numbers]
                    file.write(as_rows(features, names.__getitem__).astype("<f2").tobytes())
                    kept += numbers
        # rows of patches that the filters left out were never written: the array is as long as the header says
        file.truncate(file.tell() + 2 * model.encoder.feature_dim * (len(survey.candidates) - len(kept)))
    return kept


def score_features(folder: Path, num_rows: int, model: Model) -> tuple[float, np.ndarray]:
    """Return the slide's score and the (num_rows,) float32 patch scores of the features in `folder`.

    Raises:
        FloatingPointError: a score is NaN.
    """
    (rows,) = folder.glob("rows-*.npy")
    write_index(folder, np.array([0]), np.array([num_rows]), [rows.name])
    bags = Bags(folder, model.device)
    logits = predict_bag(model.aggregator, bags, 0, num_rows)
    score, scores = float(slide_scores(logits[:, None].cpu())[0]), score_patches(model.aggregator, bags, 0, num_rows)
    if np.isnan(score) or np.isnan(scores).any():
        raise FloatingPointError("the aggregator's score is NaN: its weights are damaged. Export the model again, or train again")
    return score, scores


def seen_by(cut: Callable[[int], PatchJpeg], config: TileConfig) -> Callable[[int], tuple[int, np.ndarray | None]]:
    """Return a function from a site's number to (number, patch) as training saw it: out of the JPEG that is stored."""

    def see(number: int) -> tuple[int, np.ndarray | None]:
        jpeg = cut(number).jpeg
        if jpeg is None:
            return number, None
        seen = np.empty((config.patch_px, config.patch_px, 3), np.uint8)
        decode_into(jpeg, seen)
        return number, seen

    return see


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`; the last may be shorter."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
