"""Mining: from instance scores to pseudo labels, hard negatives and sampling weights. Pure functions of arrays.

    scores (n,) ──┬─ positive slides ── > threshold, or the best share of each slide ──▶ candidates
                  │                                           └─ best share r(epoch) ──▶ self-paced positives
                  └─ negative slides ── best share neg_ratio, one ranking of the whole cohort ──▶ hard negatives

Sets are arrays of patch ids, cut out of a total order (hnm/mining/ranking.py). Nothing loops over patches, sorts them all, or
copies n numbers in double precision: beside the scores, 10^8 patches take one float32 copy of the ranked pool and a few masks.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hnm.mining.ranking import Ties, by_score, mark_top, mark_top_of_slides, top_share

ROWS_AT_ONCE = 1 << 20


class MiningConfig(BaseModel):
    """Which patches the encoder learns from (algorithm step 5)."""

    model_config = ConfigDict(extra="forbid")

    positive_threshold: float = Field(
        0.3, ge=0, lt=1, description="a patch of a positive slide is a positive candidate when its score is above this"
    )
    candidates_per_slide: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of each positive slide's patches, highest scores first and at least one, that are the positive "
        "candidates, whatever positive_threshold is; 0 = by the threshold (the paper)",
    )
    neg_ratio: float = Field(
        0.2,
        gt=0,
        le=1,
        description="share of all negative-slide patches mined as hard negatives; 1.0 takes all (ItS2CLR)",
    )
    hard_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="about that share of an epoch's negatives are hard ones, the others are drawn anew each epoch from the rest "
        "of the negative slides; an epoch's length stays. 1 = hard ones only (the paper), neg_ratio or less = no preference",
    )
    self_paced_start: float = Field(
        0.2, gt=0, le=1, description="share of the candidates used as positive anchors up to the warm-up epoch (r0)"
    )
    self_paced_end: float = Field(
        0.8, gt=0, le=1, description="that share at the last epoch (rT), reached by linear growth"
    )
    mask_uncertain_negatives: bool = Field(
        True,
        description="true: uncertain patches (positive slide, pseudo label 0) take no part; "
        "false: the lowest-scoring of them join the negatives",
    )
    uncertain_ratio: float = Field(
        0.2, gt=0, le=1, description="share of the uncertain patches, lowest scores first, that joins the negatives"
    )
    ties: Ties = Field(
        "exact",
        description="exact: take exactly the stated share, ties broken by patch id; keep: take all at or above the quantile",
    )
    score_memory: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="weight of the last round's score in the moving average (0 = off, the paper's is 0.3)",
    )
    gate_on_validation: bool = Field(
        True, description="replace pseudo labels only when the aggregator's validation F1 is at least the best so far"
    )


class Chosen(NamedTuple):
    """The patches that a round samples.

    Attributes:
        negatives: (h,) int64 increasing ids: hard negatives, and uncertain patches that joined them.
        candidates: (c,) int64 ids, highest score first, then lowest id.
        candidate_scores: (c,) float32, descending.
    """

    negatives: np.ndarray
    candidates: np.ndarray
    candidate_scores: np.ndarray


@dataclass(frozen=True)
class Mined:
    """What one round of mining decided.

    Attributes:
        pseudo_labels: (N,) int8: 1 positive candidate, 0 negative or uncertain, -1 not in training.
        weights: (N,) sampling weights, any real numbers from 0 up, float16 as we write them; 0 is never drawn. Ours: 1 for
            hard negatives and candidates, at most that for other patches of negative slides, 0 for the rest.
        negatives: (h,) int64 increasing ids of the hard negatives, and of uncertain patches that joined them; an epoch draws
            as many.
        candidates: (c,) int64 patch ids, highest score first: a self-paced set is a head of it.
        candidate_scores: (c,) float32, descending.
    """

    pseudo_labels: np.ndarray
    weights: np.ndarray
    negatives: np.ndarray
    candidates: np.ndarray
    candidate_scores: np.ndarray

    @property
    def num_patches(self) -> int:
        """Patches of the cohort."""
        return len(self.pseudo_labels)

    @cached_property
    def has_easy(self) -> bool:
        """Do patches of pseudo label 0 that are no hard negatives have a weight, too? Read in pieces: the arrays may be maps."""
        drawable = 0
        for start in range(0, len(self.weights), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            drawable += int(np.count_nonzero(self.weights[part][self.pseudo_labels[part] == 0]))
        return drawable != len(self.negatives)

    def self_paced(self, ratio: float, ties: Ties) -> np.ndarray:
        """Return the ids of the best `ratio` of the candidates."""
        return self.candidates[top_share(self.candidate_scores, ratio, ties)]


def self_paced_ratio(epoch: int, warmup_epochs: int, num_epochs: int, start: float, end: float) -> float:
    """Return the share r of the candidates that are positive anchors in `epoch` (ItS2CLR's self-paced schedule).

    `start` up to the warm-up epoch, then linear, so that it would reach `end` at `num_epochs`.
    """
    if epoch <= warmup_epochs:
        return start
    return start + (end - start) * (epoch - warmup_epochs) / (num_epochs - warmup_epochs)


def smooth_scores(old: np.ndarray | None, new: np.ndarray, memory: float) -> np.ndarray:
    """Return memory * old + (1 - memory) * new as float32; `new` in the first round."""
    if old is None or memory == 0:
        return new
    return np.float32(memory) * old + np.float32(1 - memory) * new


def keep_old_labels(f1: float, best_f1: float | None, gate: bool) -> bool:
    """Return whether the pseudo labels of the round before stay: its validation F1 was better than this round's."""
    return gate and best_f1 is not None and f1 < best_f1


def choose(
    scores: np.ndarray, kinds: np.ndarray, bounds: np.ndarray, config: MiningConfig, fresh: np.ndarray | None = None
) -> Chosen:
    """Rank the whole cohort and choose what is sampled.

    Args:
        scores: (n,) float32 instance scores; those of patches outside training are not looked at.
        kinds: (n,) int8: 1 patch of a positive slide, 0 of a negative slide, -1 not in training.
        bounds: (S + 1,) int64, where slides begin, and n.
        config: the shares and switches.
        fresh: (n,) bool, the patches among which hard negatives and candidates are; shares stay those of all. None: all.
    """
    positive, every = kinds == 1, scores
    if fresh is not None:
        scores = np.where(fresh, scores, np.float32(-np.inf))
    if config.candidates_per_slide:
        chosen = mark_top_of_slides(scores, positive, bounds, config.candidates_per_slide, config.ties)
    else:
        chosen = scores > config.positive_threshold
        chosen &= positive
    if fresh is not None:
        chosen &= fresh
    candidates = by_score(np.flatnonzero(chosen), scores)
    negatives = mark_top(scores, kinds == 0, config.neg_ratio, config.ties)
    if fresh is not None:
        negatives &= fresh
    if not config.mask_uncertain_negatives:
        positive[candidates] = False  # what is left is uncertain
        negatives |= mark_top(-every, positive, config.uncertain_ratio, config.ties)  # the lowest
    return Chosen(np.flatnonzero(negatives), candidates, scores[candidates])


def label(chosen: Chosen, kinds: np.ndarray, hard_share: float) -> Mined:
    """Return pseudo labels and weights of all N patches; `kinds` (N,) int8 as in `choose`, `hard_share` as configured."""
    pseudo_labels = np.minimum(kinds, 0)
    pseudo_labels[chosen.candidates] = 1
    weights = np.zeros(len(kinds), np.float16)
    easy = kinds == 0
    easy[chosen.negatives] = False
    weights[easy] = weight_of_easy(len(chosen.negatives), int(np.count_nonzero(easy)), hard_share)
    weights[chosen.negatives] = 1
    weights[chosen.candidates] = 1
    return Mined(pseudo_labels, weights, *chosen)


def weight_of_easy(num_hard: int, num_easy: int, hard_share: float) -> float:
    """Return the sampling weight of an easy negative, where a hard one has 1, so that a draw is hard with `hard_share`.

    It is never above 1: easy ones are not preferred. As an epoch draws without replacement the hard ones run short, and
    its share is a little lower: 0.31 instead of 0.33 with a neg_ratio of 0.2.
    """
    return min((1 / hard_share - 1) * num_hard / num_easy, 1.0) if num_easy else 0.0
