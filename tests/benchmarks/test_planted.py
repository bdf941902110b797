"""What `benchmarks.planted` concludes: a gain that is there is found, and dealt labels stay in their split."""

from pathlib import Path

import numpy as np

from benchmarks.planted import compare_arms, permute
from hnm.evidence.compare import SlideSet
from hnm.evidence.compare import Tested as OfTest  # pytest would collect a class of its own name


def scored(scores: np.ndarray, labels: np.ndarray) -> OfTest:
    names = np.array([f"slide-{i}" for i in range(len(labels))])
    return OfTest(SlideSet(Path("run"), names, names, labels), scores, 0.5, {})


def test_labels_are_dealt_out_within_each_split() -> None:
    labels, splits = [i % 2 for i in range(60)], ["train"] * 30 + ["validation"] * 10 + ["test"] * 20
    dealt = permute(labels, splits, seed=0)
    assert dealt != labels
    for split in set(splits):
        of_split = [place for place, name in enumerate(splits) if name == split]
        assert sum(dealt[place] for place in of_split) == sum(labels[place] for place in of_split)


def test_a_planted_gain_is_found_and_seeds_are_never_ranked_together() -> None:
    labels, noise = np.arange(40) % 2, np.random.default_rng(0).random((4, 40))
    good = [scored(labels + 0.1 * one + shift, labels) for one, shift in zip(noise[:2], (0.0, 5.0), strict=True)]
    bad = [scored(one, labels) for one in noise[2:]]
    found = compare_arms({"frozen": bad, "slide": good})
    assert found["slide"]["auc"] == 1.0  # though all of the second seed's scores are above all of the first's
    assert found["slide_minus_frozen"]["low"] > 0
    same = compare_arms({"frozen": bad, "slide": bad})["slide_minus_frozen"]
    assert same == {"auc": 0.0, "low": 0.0, "high": 0.0}
