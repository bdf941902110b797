"""Is it the tumour, or its surroundings? The test slides without their positive patches, where the patch truth is known.

    a test slide's features ──without patches of truth 1──▶ aggregator ──▶ slide AUC: what is left of it, context tells

Thinned colon bags at 5 %: a trivial baseline keeps a slide AUC of 0.88 of its 0.90 (benchmarks.baselines).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hnm.aggregator.aggregators import Aggregator
from hnm.aggregator.bags import Bags
from hnm.aggregator.score import slide_logits, slide_scores
from hnm.engine.ranks import World
from hnm.run.study import Study
from hnm.statistics.metrics import auc


@dataclass(frozen=True)
class Control:
    """The test slides that the control is of.

    Attributes:
        slides: increasing slide numbers: negative ones whole, positive ones of which every patch's truth is known.
        stay: (N,) bool, the patches that are not positive.
        num_unknown: positive test slides left out, for the truth of some patch is unknown.
        num_nothing_left: positive test slides left out, for all patches are positive.
    """

    slides: np.ndarray
    stay: np.ndarray
    num_unknown: int
    num_nothing_left: int


def control_of(study: Study) -> Control | None:
    """Return the slides of the control; None where there are not both kinds, or no truth is known."""
    truth, bounds, test = study.cohort.patches.truth, study.cohort.patch_bounds, study.test
    of_slide = {slide: truth[bounds[slide] : bounds[slide + 1]] for slide in test.tolist() if study.labels[slide] == 1}
    unknown = {slide for slide, its in of_slide.items() if np.any(its < 0) or not np.any(its == 1)}
    nothing = {slide for slide, its in of_slide.items() if slide not in unknown and np.all(its == 1)}
    slides = np.array([slide for slide in test.tolist() if slide not in unknown | nothing], np.int64)
    if len(np.unique(study.labels[slides])) < 2:
        return None
    stay = (truth != 1) | np.repeat(study.labels != 1, study.cohort.patches_per_slide)
    return Control(slides, stay, len(unknown), len(nothing))


class RowsThatStay:
    """Bags as if they had only some of their rows: what `hnm.aggregator.score.slide_logits` asks of `Bags`.

    Args:
        bags: the features.
        study: its cohort tells whose the rows are.
        control: its slides, and which of their patches stay.
    """

    def __init__(self, bags: Bags, study: Study, control: Control) -> None:
        self.bags, self.dim, self.device = bags, bags.dim, bags.device
        kept: list[np.ndarray] = []
        self.rows_of_slide: dict[int, tuple[int, int]] = {}
        num = 0
        for slide in control.slides.tolist():
            first, stop = study.cohort.patch_bounds[slide : slide + 2]
            kept.append(bags.rows_of_slide[slide][0] + np.flatnonzero(control.stay[first:stop]))
            self.rows_of_slide[slide] = (num, num := num + len(kept[-1]))
        self.kept = np.concatenate(kept)  # increasing

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) of those that stay, (stop - start, dim) float32."""
        kept = self.kept[start:stop]
        return self.bags.rows(int(kept[0]), int(kept[-1]) + 1)[torch.from_numpy(kept - kept[0]).to(self.device)]


def context_part(model: Aggregator, bags: Bags, by_slide: np.ndarray, study: Study, world: World) -> dict[str, Any] | None:
    """Return the slide AUC with and without the positive patches of the same test slides. Every rank must call it.

    Args:
        model: the chosen round's aggregator.
        bags: the features of the test slides.
        by_slide: (test slides,) slide scores of `study.test`, with all patches.
    """
    control = control_of(study)
    if control is None:
        return None
    logits = slide_logits(model, RowsThatStay(bags, study, control), control.slides, world)  # type: ignore[arg-type]
    labels = study.labels[control.slides]
    return {
        "slide_auc": auc(labels, by_slide[np.isin(study.test, control.slides)]),
        "slide_auc_without_positive_patches": auc(labels, slide_scores(logits)),
        "num_slides": len(control.slides),
        "num_unknown": control.num_unknown,
        "num_nothing_left": control.num_nothing_left,
    }
