"""Patches as few, standardised numbers: each feature to mean 0 and deviation 1, then the largest principal components."""

from dataclasses import dataclass

import numpy as np


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


def fit_components(rows: np.ndarray, num_components: int, seed: int) -> Components:
    """Return the map to at most `num_components` components of rows (n, dim) float32; the seed is randomized SVD's."""
    from sklearn.decomposition import PCA  # here: it takes a second that most processes need not spend

    mean, scale = rows.mean(0, dtype=np.float64).astype(np.float32), rows.std(0, dtype=np.float64).astype(np.float32)
    scale = np.where(scale > 0, scale, np.float32(1))
    pca = PCA(min(num_components, *rows.shape), svd_solver="randomized", random_state=seed % 2**32)
    pca.fit((rows - mean) / scale)
    largest = max(float(np.sqrt(pca.explained_variance_[0])), np.finfo(np.float32).tiny)
    return Components(mean, (pca.components_.T / scale[:, None] / largest).astype(np.float32))
