"""Which negatives the model takes for positive, and whether the next round still does: pure functions of scores and ids.

    round 0: scores, threshold, mined ids ──┐
    round 1: ...                            ├─▶ the hardest of a slide, their rank in the cohort, what became of those mined
    round 2: ...                            ┘

A round's patch threshold is chosen on its own scores of validation slides (`hnm.evidence.patch_threshold`): scores of two rounds
need not have one scale. Where there is no negative validation patch, there is no threshold and nothing is called positive.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from hnm.evidence.patch_threshold import PatchThreshold, choose_patch_threshold
from hnm.mining.coordinator import load_mined
from hnm.report.record import RunRecord
from hnm.run.study import Study
from hnm.run_rounds import round_folder

NO_IDS = np.empty(0, np.int64)


@dataclass(frozen=True)
class Scoring:
    """The patch scores that one round gave, and what was mined by them.

    Attributes:
        name: in words.
        scores: (N,) float32, NaN where a patch was not scored.
        threshold: from which score on a patch is called positive; above 1: none is.
        is_negative: (N,) bool, patches of negative slides.
        negatives: (h,) increasing ids of the hard negatives.
        candidates: (c,) increasing ids of the positive candidates.
    """

    name: str
    scores: np.ndarray
    threshold: PatchThreshold
    is_negative: np.ndarray
    negatives: np.ndarray = field(default_factory=lambda: NO_IDS)
    candidates: np.ndarray = field(default_factory=lambda: NO_IDS)

    @property
    def calls(self) -> bool:
        """Is there a score from which a patch is called positive?"""
        return self.threshold.value <= 1

    @cached_property
    def of_negatives(self) -> np.ndarray:
        """(k,) float32, ascending: the scores of all scored patches of negative slides."""
        scores = self.scores[self.is_negative]
        return np.sort(scores[np.isfinite(scores)])

    def has_mined(self, patch: int) -> bool:
        """Is a patch one of the hard negatives?"""
        at = int(np.searchsorted(self.negatives, patch))
        return at < len(self.negatives) and int(self.negatives[at]) == patch

    def ranks(self, ids: np.ndarray) -> np.ndarray:
        """Return (n,) int64: the place of each of `ids` among the patches of negative slides, 1 the hardest; 0: not scored."""
        scores = self.scores[ids]
        harder = len(self.of_negatives) - np.searchsorted(self.of_negatives, scores, side="right")
        return np.where(np.isfinite(scores), harder + 1, 0)


class Followed(NamedTuple):
    """What became of the hard negatives that one round mined.

    Attributes:
        name: of the round.
        num_mined: hard negatives.
        num_called: of them, how many each later round calls positive, the round itself first; None where nothing is called.
        num_again: of them, how many the next round mined again; None after the last.
    """

    name: str
    num_mined: int
    num_called: list[int | None]
    num_again: int | None


def negatives_of(study: Study, slide: int) -> np.ndarray:
    """Return the increasing ids of a slide's patches that are negative: all of a negative slide, else those known to be."""
    ids = np.arange(*study.cohort.patch_bounds[slide : slide + 2])
    return ids if study.labels[slide] == 0 else ids[study.cohort.patches.truth[ids] == 0]


def hardest(scores: np.ndarray, ids: np.ndarray, most: int) -> np.ndarray:
    """Return the `most` of `ids` (n,) with the highest of `scores` (N,), highest first, then lowest id; NaN is left out."""
    ids = ids[np.isfinite(scores[ids])]
    if len(ids) > 4 * most:  # a slide has up to 10^5 patches, a cohort 10^8
        ids = ids[scores[ids] >= np.partition(scores[ids], len(ids) - most)[len(ids) - most]]
    return ids[np.lexsort((ids, -scores[ids]))][:most]


def of_slide(increasing: np.ndarray, study: Study, slide: int) -> np.ndarray:
    """Return those of increasing patch ids that belong to a slide."""
    return increasing[slice(*np.searchsorted(increasing, study.cohort.patch_bounds[slide : slide + 2]))]


def follow(scorings: Sequence[Scoring], within: Callable[[np.ndarray], np.ndarray] = np.asarray) -> list[Followed]:
    """Return what became of the hard negatives of each round that mined some.

    Args:
        scorings: the rounds in order.
        within: chooses which of increasing ids count; without it all do.
    """
    followed = []
    for at, scoring in enumerate(scorings):
        mined = within(scoring.negatives)
        if not len(mined):
            continue
        called = [
            int((later.scores[mined] >= np.float32(later.threshold.value)).sum()) if later.calls else None
            for later in scorings[at:]
        ]
        again = int(np.isin(mined, within(scorings[at + 1].negatives)).sum()) if at + 1 < len(scorings) else None
        followed.append(Followed(scoring.name, len(mined), called, again))
    return followed


def rounds_of_record(record: RunRecord) -> list[Scoring]:
    """Return the scorings of the rounds of a run, in order; test slides have no score in them."""
    study, rate = record.study, record.config.rounds.patch_false_positive_rate
    is_negative = study.mask_of(np.flatnonzero(study.labels == 0))
    found = []
    for round_ in range(record.num_rounds):
        scores, mined = record.patch_scores_of(round_), load_mined(round_folder(record.run, round_))
        threshold = choose_patch_threshold(scores, study, rate)
        found.append(
            Scoring(f"round {round_}", scores, threshold, is_negative, np.sort(mined.negatives), np.sort(mined.candidates))
        )
    return found


def evaluation_of_record(record: RunRecord) -> Scoring | None:
    """Return the scores of the chosen round with those of the test slides, None before `hnm evaluate`."""
    if record.metrics is None:
        return None
    is_negative = record.study.mask_of(np.flatnonzero(record.study.labels == 0))
    name = f"hnm evaluate (round {record.chosen})"
    return Scoring(name, record.by_patch, record.chosen_patch_threshold, is_negative)
