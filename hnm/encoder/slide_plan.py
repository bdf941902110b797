"""Which slides, and which of their patches, the steps of a slide loss take: an array, the same on any number of ranks.

    pairs of a positive and a negative slide ──▶ slides of a step (2 p,) ──draw patches──▶ row of patch ids, slide by slide

Every rank plans the whole epoch alone, as for the other objectives (shards/reading/plan.py).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from shards.reading.plan import weighted_sample
from shards.seeding import numpy_generator


class SlideLossConfig(BaseModel):
    """How the encoder learns from the slides' labels, through an aggregator trained with it (finetune.objective slide, both)."""

    model_config = ConfigDict(extra="forbid")

    slides_per_step: int = Field(
        8, ge=2, multiple_of=2, description="slides in an optimizer step over all ranks, half of them positive"
    )
    patches_per_slide: int = Field(
        64, ge=1, description="patches of each slide in a step, or all of a smaller slide; finetune.chunk_size bounds memory"
    )
    patches: Literal["random", "weighted"] = Field(
        "random", description="how they are drawn: all alike, or by the sampling weights that mining gave them"
    )
    aggregator_lr: float = Field(
        2e-4, gt=0, description="Adam's rate for the aggregator; it follows the encoder's schedule"
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of the moving average of the encoder's weights, which is then what is kept; 0 = none"
    )
    patience: int = Field(
        0, ge=0, description="epochs without a lower validation loss after which a round stops; 0 = never. The best epoch is kept"
    )
    supcon_weight: float = Field(1.0, gt=0, description="weight of the supervised contrastive loss (objective both only)")


@dataclass(frozen=True)
class SlideStep:
    """The slides of one step and their patches.

    Attributes:
        slides: (2 p,) slide numbers, the p positive ones first.
        sizes: (2 p,) patches of each.
        row: (sum of sizes,) patch ids, slide by slide, increasing in each.
    """

    slides: np.ndarray
    sizes: np.ndarray
    row: np.ndarray


def plan_slide_steps(
    slides: list[np.ndarray], bounds: np.ndarray, weights: np.ndarray | None, num_patches: int, seed: int, *purpose: str | int
) -> list[SlideStep]:
    """Draw the patches of each step's slides, without replacement.

    Args:
        slides: the slides (2 p,) of each step.
        bounds: (S + 1,) where the slides' patches begin, and N.
        weights: (N,) sampling weights; a slide without any weight is drawn from as if all were alike. None: all alike.
        num_patches: patches of a slide; a slide with fewer (of a weight above 0) gives what it has.
        seed: the run's seed.
        purpose: what the draws are for, and the epoch.
    """
    steps = []
    for number, of_step in enumerate(slides):
        generator = numpy_generator(seed, "slide patches", *purpose, number)
        ids = [_draw(int(bounds[s]), int(bounds[s + 1]), weights, num_patches, generator) for s in of_step]
        steps.append(SlideStep(of_step, np.array([len(one) for one in ids]), np.concatenate(ids)))
    return steps


def _draw(
    first: int, stop: int, weights: np.ndarray | None, num_patches: int, generator: np.random.Generator
) -> np.ndarray:
    of_slide = np.ones(stop - first, np.float32) if weights is None else weights[first:stop]
    num_drawable = int(np.count_nonzero(of_slide))
    if num_drawable == 0:  # a negative slide without a hard negative, where easy ones have no weight
        of_slide, num_drawable = np.ones(stop - first, np.float32), stop - first
    return first + weighted_sample(of_slide, min(num_patches, num_drawable), generator)
