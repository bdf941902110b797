"""What is told of known mimics (tile.mimic_groups) when negatives are mined: how many of the hardest are such."""

from typing import Any

import numpy as np

from hnm.mining.ranking import mark_top
from hnm.run.study import Study
from hnm.statistics.metrics import auc


def mimic_figures(study: Study, negatives: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Return the figures of mining.json about mimics; none where the cohort knows of none, and nothing is chosen by them.

    Args:
        study: the cohort and its roles.
        negatives: (h,) ids of the mined hard negatives.
        scores: (N,) float32.

    Returns:
        mimic_share_negatives: of all patches of negative training slides, which is what a random draw finds;
        mimic_share_hard_negatives: of the mined ones;
        mimic_share_hardest: of as many hardest ones as there are mimics, so that 1 says: the mimics look most like tumour;
        validation_mimic_auc: tumour against mimics, on the validation slides; None where either is missing there.
    """
    mimics, truth = study.cohort.mimics, study.cohort.patches.truth
    if mimics is None:
        return {}
    is_negative = study.kinds == 0
    share = float(mimics[is_negative].mean())
    hardest = mark_top(scores, is_negative, share, "exact") if share else is_negative
    judged = study.mask_of(study.validation)
    judged &= mimics | (truth == 1)
    return {
        "mimic_share_negatives": share,
        "mimic_share_hard_negatives": float(mimics[negatives].mean()) if len(negatives) else None,
        "mimic_share_hardest": float(mimics[hardest].mean()),
        "validation_mimic_auc": auc(truth[judged], scores[judged]),
    }
