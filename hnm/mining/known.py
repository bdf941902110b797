"""Known patches in mining (hnm cohort correct): a known negative is a negative wherever it lies, a known positive a candidate."""

from typing import Any

import numpy as np

from hnm.mining.mining import Chosen
from hnm.mining.ranking import by_score
from hnm.run.study import Study
from shards.cohort.corrections import Corrections


def not_known(study: Study, fresh: np.ndarray | None) -> np.ndarray:
    """Return the patches (N,) bool that are ranked by score: those of `fresh` (None: all) of which nobody has said anything.

    The place of a candidate that is a known negative is so taken by the next of its slide.
    """
    ranked = np.ones(study.cohort.num_patches, bool) if fresh is None else fresh.copy()
    ranked[study.known.ids] = False
    return ranked


def honour(chosen: Chosen, scores: np.ndarray, corrections: Corrections) -> Chosen:
    """Return what was chosen with the known negatives among the negatives and the known positives among the candidates.

    Args:
        chosen: by score, or by the round before.
        scores: (N,) float32; a patch without a score is left out.
        corrections: of training slides only.
    """
    ids, labels = corrections.ids, corrections.labels
    scored = np.isfinite(scores[ids])
    positive, negative = ids[scored & (labels == 1)], ids[scored & (labels == 0)]
    negatives = np.union1d(np.setdiff1d(chosen.negatives, positive), negative)
    candidates = by_score(np.union1d(np.setdiff1d(chosen.candidates, negative), positive), scores)
    return Chosen(negatives, candidates, scores[candidates])


def known_figures(study: Study) -> dict[str, Any]:
    """Return what mining.json tells of corrections; nothing where no training slide has any."""
    known = study.known
    if not len(known):
        return {}
    on_positive = study.labels[study.cohort.patches.slide[known.ids]] == 1
    return {
        "corrections": {
            "known_negatives": int((known.labels == 0).sum()),
            "known_negatives_of_positive_slides": int(((known.labels == 0) & on_positive).sum()),
            "known_positives": int((known.labels == 1).sum()),
            "digest": known.digest,
        }
    }


def in_words(decision: dict[str, Any]) -> str:
    """Return what a round knew by people, for its line; "" if nothing."""
    known = decision.get("corrections")
    if not known:
        return ""
    return (
        f"; {known['known_negatives']:,} known negatives ({known['known_negatives_of_positive_slides']:,} of positive slides), "
        f"{known['known_positives']:,} known positives"
    )
