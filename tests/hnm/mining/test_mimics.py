from dataclasses import replace

import numpy as np

from hnm.mining.mimics import mimic_figures
from tests.hnm.worlds import tables_only_study

STUDY = tables_only_study()


def test_the_share_among_the_hardest_by_hand() -> None:
    num_patches = STUDY.cohort.num_patches
    negatives = np.flatnonzero(STUDY.kinds == 0)
    mimics = np.zeros(num_patches, bool)
    mimics[negatives[:4]] = True
    mimics[STUDY.patches_of(STUDY.validation)[:3]] = True
    scores = np.linspace(0, 0.5, num_patches, dtype=np.float32)
    scores[negatives[[0, 1, 2, 7]]] = 0.9  # of the four hardest three are mimics
    study = replace(STUDY, cohort=replace(STUDY.cohort, mimics=mimics))
    figures = mimic_figures(study, negatives[[0, 7]], scores)
    assert figures["mimic_share_negatives"] == 4 / len(negatives)
    assert figures["mimic_share_hard_negatives"] == 0.5
    assert figures["mimic_share_hardest"] == 0.75
    scores[mimics] = -1.0
    assert mimic_figures(study, negatives[:0], scores) == {
        **figures, "mimic_share_hard_negatives": None, "mimic_share_hardest": 0.0, "validation_mimic_auc": 1.0
    }  # fmt: skip


def test_a_cohort_that_knows_of_none_is_told_nothing() -> None:
    assert mimic_figures(STUDY, np.arange(3), np.zeros(STUDY.cohort.num_patches, np.float32)) == {}
