"""How the patch scores of positive and negative slides are spread, round by round."""

import numpy as np

NUM_BINS = 20
EDGES = np.linspace(0, 1, NUM_BINS + 1)
CHUNK = 1 << 22  # patches looked at together: scores of 10^8 patches are a memory map


def score_counts(scores: np.ndarray, kinds: np.ndarray, num_kinds: int) -> np.ndarray:
    """Return how many patches of each kind score in each of `NUM_BINS` equal parts of [0, 1], (kinds, bins) int64.

    Args:
        scores: (N,) float in [0, 1]; NaN, not scored, is left out.
        kinds: (N,) int8, 0 to num_kinds - 1; -1 is left out.
        num_kinds: how many kinds.
    """
    counts = np.zeros(num_kinds * NUM_BINS, np.int64)
    for start in range(0, len(scores), CHUNK):
        part, kind = scores[start : start + CHUNK], kinds[start : start + CHUNK]
        known = (kind >= 0) & np.isfinite(part)
        place = np.minimum((part[known] * NUM_BINS).astype(np.int64), NUM_BINS - 1)
        counts += np.bincount(kind[known] * np.int64(NUM_BINS) + place, minlength=len(counts))
    return counts.reshape(num_kinds, NUM_BINS)
