"""Mining: from instance scores to pseudo labels, hard negatives and sampling weights. Pure functions of arrays.

    scores (n,) ──┬─ positive slides ── > threshold ──▶ candidates ── best share r(epoch) ──▶ self-paced positives
                  └─ negative slides ── best share neg_ratio, one ranking of the whole cohort ──▶ hard negatives

Sets are arrays of patch ids. The order is total: higher score first, then lower patch id; so a set does not depend on how
patches were spread over ranks. Nothing loops over patches and nothing copies n numbers in double precision.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

Ties = Literal["exact", "keep"]


class MiningConfig(BaseModel):
    """Which patches the encoder learns from (algorithm step 5)."""

    model_config = ConfigDict(extra="forbid")

    positive_threshold: float = Field(
        0.3, ge=0, lt=1, description="a patch of a positive slide is a positive candidate when its score is above this"
    )
    neg_ratio: float = Field(
        0.2, gt=0, le=1, description="share of all negative-slide patches mined as hard negatives; 1.0 takes all (ItS2CLR)"
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
        0.0, ge=0, lt=1, description="weight of the last round's score in the moving average (0 = off, the paper's is 0.3)"
    )
    gate_on_validation: bool = Field(
        True, description="replace pseudo labels only when the aggregator's validation F1 is at least the best so far"
    )


@dataclass(frozen=True)
class Mined:
    """What one round of mining decided.

    Attributes:
        pseudo_labels: (N,) int8: 1 positive candidate, 0 negative or uncertain, -1 not in training.
        weights: (N,) float16 sampling weights: 1 for hard negatives and candidates, else 0.
        candidates: (c,) int64 patch ids, highest score first: a self-paced set is a head of it.
        candidate_scores: (c,) float32, descending.
    """

    pseudo_labels: np.ndarray
    weights: np.ndarray
    candidates: np.ndarray
    candidate_scores: np.ndarray

    @property
    def negatives(self) -> np.ndarray:
        """The increasing ids of the patches that serve as negatives: sampled and not candidates."""
        return np.flatnonzero((self.weights > 0) & (self.pseudo_labels == 0))

    def self_paced(self, ratio: float, ties: Ties) -> np.ndarray:
        """Return the ids of the best `ratio` of the candidates."""
        return self.candidates[top_share(self.candidate_scores, ratio, ties)]


def count_of_share(share: float, total: int) -> int:
    """Return ceil(share * total), without counting rounding dust as one more."""
    return min(total, int(np.ceil(share * total - 1e-9)))


def top_share(scores: np.ndarray, share: float, ties: Ties) -> np.ndarray:
    """Return the positions of the highest `share` of `scores`, in increasing position.

    Args:
        scores: (n,) floats.
        share: in (0, 1].
        ties: "exact": ceil(share * n) positions, equal scores by lower position; "keep": all scores at or above the
            (1 - share) quantile with linear interpolation, as the released code does, which may be more.
    """
    if len(scores) == 0:
        return np.empty(0, np.int64)
    if ties == "keep":
        return np.flatnonzero(scores >= np.quantile(scores, 1 - share))
    count = count_of_share(share, len(scores))
    threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
    chosen = scores > threshold
    equal = np.flatnonzero(scores == threshold)
    chosen[equal[: count - np.count_nonzero(chosen)]] = True
    return np.flatnonzero(chosen)


def hard_negatives(scores: np.ndarray, ids: np.ndarray, ratio: float, ties: Ties) -> np.ndarray:
    """Return the hardest negatives of the whole cohort: one global ranking over all negative slides.

    Args:
        scores: (N,) instance scores by patch id.
        ids: (n,) increasing ids of the patches of negative slides.
        ratio: share of them to take.
        ties: see `top_share`.

    Returns:
        Increasing patch ids.
    """
    return ids[top_share(scores[ids], ratio, ties)]


def positive_candidates(scores: np.ndarray, ids: np.ndarray, threshold: float) -> np.ndarray:
    """Return the ids, highest score first, of the positive-slide patches `ids` that score above `threshold`."""
    chosen = ids[scores[ids] > threshold]
    return chosen[np.lexsort((chosen, -scores[chosen]))]


def self_paced_ratio(epoch: int, warmup_epochs: int, num_epochs: int, start: float, end: float) -> float:
    """Return the share r of the candidates that are positive anchors in `epoch` (ItS2CLR's self-paced schedule).

    `start` up to the warm-up epoch, then linear, so that it would reach `end` at `num_epochs`.
    """
    if epoch <= warmup_epochs:
        return start
    return start + (end - start) * (epoch - warmup_epochs) / (num_epochs - warmup_epochs)


def confident_negatives(scores: np.ndarray, ids: np.ndarray, ratio: float, ties: Ties) -> np.ndarray:
    """Return the lowest-scoring `ratio` of the uncertain patches `ids`, in increasing id.

    "keep" takes all at or below the `ratio` quantile; "exact" breaks ties by lower id.
    """
    return ids[top_share(-scores[ids], ratio, ties)]


def smooth_scores(old: np.ndarray | None, new: np.ndarray, memory: float) -> np.ndarray:
    """Return memory * old + (1 - memory) * new as float32; `new` in the first round."""
    if old is None or memory == 0:
        return new
    return np.float32(memory) * old + np.float32(1 - memory) * new


def keep_old_labels(f1: float, best_f1: float | None, gate: bool) -> bool:
    """Return whether the pseudo labels of the round before stay: its validation F1 was better than this round's."""
    return gate and best_f1 is not None and f1 < best_f1


def mine(
    scores: np.ndarray, patch_slide: np.ndarray, training_slides: np.ndarray, labels: np.ndarray, config: MiningConfig
) -> Mined:
    """Rank the cohort and decide pseudo labels and sampling weights.

    Args:
        scores: (N,) float32 instance scores; those of patches outside training are not looked at.
        patch_slide: (N,) int32 slide of each patch.
        training_slides: (S,) bool, the slides that train the encoder.
        labels: (S,) int8 slide labels, 1 or 0 on training slides.
        config: the shares and switches.
    """
    negative_ids = np.flatnonzero((training_slides & (labels == 0))[patch_slide])
    positive_ids = np.flatnonzero((training_slides & (labels == 1))[patch_slide])
    candidates = positive_candidates(scores, positive_ids, config.positive_threshold)
    pseudo_labels = np.full(len(scores), -1, np.int8)
    pseudo_labels[negative_ids] = 0
    pseudo_labels[positive_ids] = 0
    pseudo_labels[candidates] = 1
    weights = np.zeros(len(scores), np.float16)
    weights[hard_negatives(scores, negative_ids, config.neg_ratio, config.ties)] = 1
    weights[candidates] = 1
    if not config.mask_uncertain_negatives:
        uncertain = positive_ids[pseudo_labels[positive_ids] == 0]
        weights[confident_negatives(scores, uncertain, config.uncertain_ratio, config.ties)] = 1
    return Mined(pseudo_labels, weights, candidates, scores[candidates])

