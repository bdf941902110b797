"""Permuted labels: as many positive slides as before, of whole patients, by seed and not by the order of the slides."""

import numpy as np

from hnm.evidence.null import permuted_labels


def test_labels_are_those_of_some_patients_at_random() -> None:
    patients = np.array([f"patient {number // 3}" for number in range(60)])
    labels = (np.arange(60) // 3 % 4 == 0).astype(np.int8)
    labels[[5, 17]] = -1
    permuted = permuted_labels(labels, patients, seed=1)
    assert (permuted == -1).tolist() == (labels == -1).tolist()
    assert (permuted == 1).sum() == (labels == 1).sum()
    mixed = [len(set(permuted[(patients == patient) & (labels >= 0)])) > 1 for patient in set(patients)]
    assert sum(mixed) <= 1
    order = np.random.default_rng(0).permutation(60)
    assert permuted_labels(labels[order], patients[order], seed=1)[labels[order] >= 0].sum() == permuted[labels >= 0].sum()
    draws = np.array([permuted_labels(labels, patients, seed) for seed in range(400)])
    assert not np.array_equal(draws[0], draws[1])
    agree = np.mean(draws[:, labels == 1] == 1)
    assert abs(agree - np.mean(labels[labels >= 0] == 1)) < 0.03  # they say nothing of the true ones
