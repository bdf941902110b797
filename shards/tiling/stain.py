"""Stain normalisation: patches of all slides in the colours of one reference.

    thumbnail's tissue pixels (n, 3) ──fit──▶ Stain ──apply──▶ patch (p, p, 3)

Fitted once per slide, on its thumbnail, so that all its patches are changed in the same way.

Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009.
Reinhard et al., "Color transfer between images", IEEE CG&A 2001.
"""

from collections.abc import Callable

import cv2
import numpy as np

from shards.errors import InputError

LIGHT = 240.0  # of an empty pixel
MIN_DENSITY = 0.15  # optical density below which a pixel is taken for glass (Macenko's beta)
ANGLE_PERCENTILES = (1.0, 99.0)  # Macenko's alpha
MIN_PIXELS = 100
# Reference optical densities of haematoxylin and eosin, and their 99th percentiles (Macenko et al., as widely used).
REFERENCE_STAINS = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])
REFERENCE_AMOUNTS = np.array([1.9705, 1.0308])
# Mean and deviation of L*, a*, b* (OpenCV's 8-bit scale) of a well-stained H&E slide.
REFERENCE_LAB = np.array([[169.0, 157.0, 114.0], [30.0, 9.0, 8.0]])

Normaliser = Callable[[np.ndarray], np.ndarray]


def fit_macenko(pixels: np.ndarray) -> Normaliser:
    """Return the function that gives a patch the reference's stains.

    Args:
        pixels: (n, 3) uint8 RGB of the slide's tissue.

    Raises:
        InputError: too few stained pixels.
    """
    density = _density(pixels)
    density = density[(density > MIN_DENSITY).all(axis=1)]
    _require(len(density))
    stains = _stain_vectors(density)  # (2, 3)
    amounts = _amounts(density, stains)
    scale = REFERENCE_AMOUNTS / np.maximum(np.percentile(amounts, 99, axis=0), 1e-6)
    # density -> amounts -> scaled -> reference density: one 3 x 3 matrix.
    matrix = np.linalg.pinv(stains) @ np.diag(scale) @ REFERENCE_STAINS

    def normalise(patch: np.ndarray) -> np.ndarray:
        light = LIGHT * np.exp(-(_density(patch) @ matrix))
        return np.clip(np.rint(light), 0, 255).astype(np.uint8)

    return normalise


def fit_reinhard(pixels: np.ndarray) -> Normaliser:
    """Return the function that moves a patch's L*a*b* mean and deviation to the reference's.

    Args:
        pixels: (n, 3) uint8 RGB of the slide's tissue.

    Raises:
        InputError: too few pixels.
    """
    _require(len(pixels))
    lab = _lab(pixels[:, None, :]).reshape(-1, 3)
    mean, deviation = lab.mean(axis=0), np.maximum(lab.std(axis=0), 1e-6)

    def normalise(patch: np.ndarray) -> np.ndarray:
        moved = (_lab(patch) - mean) / deviation * REFERENCE_LAB[1] + REFERENCE_LAB[0]
        return cv2.cvtColor(np.clip(np.rint(moved), 0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB)

    return normalise


# By the name of `TileConfig.stain`.
STAINS: dict[str, Callable[[np.ndarray], Normaliser]] = {"macenko": fit_macenko, "reinhard": fit_reinhard}


def _density(pixels: np.ndarray) -> np.ndarray:
    return -np.log(np.maximum(pixels.astype(np.float64), 1.0) / LIGHT)


def _lab(patch: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(patch, cv2.COLOR_RGB2LAB).astype(np.float64)


def _stain_vectors(density: np.ndarray) -> np.ndarray:
    """Return (2, 3) unit vectors, haematoxylin first: the extreme angles in the plane of the two largest components."""
    _, vectors = np.linalg.eigh(np.cov(density.T))
    plane = vectors[:, [2, 1]]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)  # an eigenvector's sign is arbitrary
    along = density @ plane
    angles = np.percentile(np.arctan2(along[:, 1], along[:, 0]), ANGLE_PERCENTILES)
    ends = np.stack([plane @ (np.cos(angle), np.sin(angle)) for angle in angles])
    ends = ends[np.argsort(-ends[:, 0], kind="stable")]  # haematoxylin takes more red than eosin does
    return ends / np.linalg.norm(ends, axis=1, keepdims=True)


def _amounts(density: np.ndarray, stains: np.ndarray) -> np.ndarray:
    return density @ np.linalg.pinv(stains)


def _require(num_pixels: int) -> None:
    if num_pixels < MIN_PIXELS:
        raise InputError(
            f"{num_pixels} stained pixels on the thumbnail are too few to fit a stain. Set tile.stain=none"
        )
