"""Patches as few, standardised numbers: each feature to mean 0 and deviation 1, then the largest principal components."""

from dataclasses import dataclass

import numpy as np

NUM_COMPONENTS, MOST_ROWS = 64, 8192  # more rows would move 64 directions by little


@dataclass(frozen=True)
class Components:
    """An affine map of features, fitted on training patches.

    Attributes:
        mean: (dim,) float32, taken off first.
        directions: (dim, k) float32, the components of the standardised features; the largest has deviation 1.
    """

    mean: np.ndarray
    directions: np.ndarray

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return (n, k) float32 of rows (n, dim)."""
        found: np.ndarray = (rows - self.mean) @ self.directions
        return found


def fit_components(rows: np.ndarray) -> Components:
    """Return the map to at most `NUM_COMPONENTS` components of rows (n, dim) float32.

    Mean and deviation are of all rows, directions of at most `MOST_ROWS`, evenly spaced: one way, whatever a run's seed.
    """
    from sklearn.decomposition import PCA  # here: importing it takes a second

    mean, scale = rows.mean(0, dtype=np.float64).astype(np.float32), rows.std(0, dtype=np.float64).astype(np.float32)
    scale = np.where(scale > 0, scale, np.float32(1))
    some = rows[:: -(-len(rows) // MOST_ROWS)]
    pca = PCA(min(NUM_COMPONENTS, *some.shape), svd_solver="randomized", iterated_power=4, random_state=0)
    pca.fit((some - mean) / scale)
    largest = max(float(np.sqrt(pca.explained_variance_[0])), float(np.finfo(np.float32).tiny))
    return Components(mean, (pca.components_.T / scale[:, None] / largest).astype(np.float32))
