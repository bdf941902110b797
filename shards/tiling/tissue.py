"""Which parts of a slide are tissue: small pure functions on a thumbnail or on a patch.

    thumbnail (h, w, 3) ──glass_free, otsu_saturation──▶ mask (h, w) ──shares──▶ share of tissue under each patch
                          saturation_threshold: Otsu's, with a floor and a ceiling, or a fixed one where no glass is seen
    patch (p, p, 3)     ──edge_energy, white_fraction, canny_std──▶ a number, compared with a threshold of the config

The thumbnail comes first: what it shows to be glass is never read at full resolution.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

# Laplacian of PIL's ImageFilter.FIND_EDGES, which DSMIL uses; the rim of an image is copied there, not filtered.
FIND_EDGES = np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]], np.float32)
WHITE_GREY = 230  # DeepPATH's
GLASS_SATURATION = 14  # of 255; stained tissue begins at about 20, glass of the slides seen ends at 8
GLASS_GREY = 195  # darker is no glass, whatever its colour: folds, ink, dust
MIN_OTSU_SATURATION = 14.0  # Otsu's threshold halves pure noise too: a slide without tissue has to stay empty
# Where tissue is strongly stained, or fills the image, Otsu parts dark from pale tissue. Of the patches (50 px) of the 100 colon
# images that hold a tumour nucleus Otsu's threshold dropped 115 of 2,215; with a ceiling of 20 or 25, and the minimum where there
# is too little glass, 5; of 30, 8; of 40, 15; of 60, 19. No patch of glass is kept (benchmarks/results/2026-11-28-tissue.json).
MAX_OTSU_SATURATION = 25.0
# Glass of a colour of its own (old mounting medium, a lamp that was not balanced) is bright and even: more than half of what
# Otsu calls background lies within 3 of one saturation. Of images full of tissue it was a third at most.
BRIGHT_GREY = 215
GLASS_SPREAD, GLASS_SHARE = 3, 0.5
USUAL_GLASS = 4.0  # saturation; what glass has more of it is added to both limits


def edge_energy(patch: np.ndarray, patch_px: int) -> float:
    """Return DSMIL's edge measure: mean over the channels of the summed edge image, over patch_px squared.

    DSMIL keeps patches above 15, HNM-WSI above 30.

    Args:
        patch: (h, w, 3) uint8 RGB.
        patch_px: side of a whole patch; DSMIL divides by it also where a patch at the rim is smaller.
    """
    edges = cv2.filter2D(patch, -1, FIND_EDGES)
    edges[[0, -1]], edges[:, [0, -1]] = patch[[0, -1]], patch[:, [0, -1]]
    return float(edges.sum(dtype=np.int64)) / 3 / patch_px**2


def white_fraction(patch: np.ndarray) -> float:
    """Return DeepPATH's share of pixels whose grey (ITU-R 601, as PIL does it) is 230 or more; it keeps up to 0.25."""
    red, green, blue = (patch[..., channel].astype(np.uint32) for channel in range(3))
    grey = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return float((grey >= WHITE_GREY).mean())


def canny_std(patch: np.ndarray) -> float:
    """Return DeepPATH's standard deviation of the Canny edge image (thresholds 1 and 255).

    DeepPATH takes an RGB patch for BGR when it makes it grey; so do we, or its thresholds would not carry over.
    """
    return float(cv2.Canny(cv2.cvtColor(patch, cv2.COLOR_BGR2GRAY), 1, 255).std())


def glass_free(thumbnail: np.ndarray) -> np.ndarray:
    """Return a generous mask (h, w) bool of what may be tissue: anything coloured or dark, and its neighbours."""
    saturation, grey = _saturation(thumbnail), cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)
    candidate = ((saturation > GLASS_SATURATION) | (grey < GLASS_GREY)).astype(np.uint8)
    return cv2.dilate(candidate, np.ones((3, 3), np.uint8)).astype(bool)


class Threshold(NamedTuple):
    """What parts tissue from glass on a slide's thumbnail.

    Attributes:
        saturation: of 255; above it is tissue.
        source: which threshold it is, for people to read: it begins with "otsu", "ceiling", "floor" or "fixed".
    """

    saturation: float
    source: str


def otsu_saturation(thumbnail: np.ndarray) -> tuple[np.ndarray, Threshold]:
    """Return the tissue mask (h, w) bool: saturation, smoothed, above a threshold; and that threshold."""
    saturation = smooth_saturation(thumbnail)
    threshold = saturation_threshold(saturation, cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY))
    return saturation > threshold.saturation, threshold


def smooth_saturation(thumbnail: np.ndarray) -> np.ndarray:
    """Return the saturation (h, w) uint8, without specks."""
    return cv2.medianBlur(_saturation(thumbnail), 5)


def saturation_threshold(
    saturation: np.ndarray, grey: np.ndarray, ceiling: float = MAX_OTSU_SATURATION
) -> Threshold:
    """Return Otsu's threshold within limits, or a fixed one where what it calls background is no glass.

    Args:
        saturation: (h, w) uint8, smoothed.
        grey: (h, w) uint8.
        ceiling: saturation of which 255 is the most; benchmarks try others.
    """
    otsu, _ = cv2.threshold(saturation, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    background = saturation <= max(otsu, saturation.min())  # of an image of one colour Otsu's is 0
    tint = _tint(saturation[background], grey[background])
    if tint is None:
        return Threshold(MIN_OTSU_SATURATION, f"fixed, for too little is glass (Otsu's would be {otsu:.0f})")
    least, most = MIN_OTSU_SATURATION + tint, ceiling + tint
    told = f", the glass has a saturation of {USUAL_GLASS + tint:.0f}" if tint else ""
    if otsu > most:
        return Threshold(most, f"ceiling (Otsu's would be {otsu:.0f}){told}")
    return Threshold(otsu, f"otsu{told}") if otsu >= least else Threshold(least, f"floor (Otsu's would be {otsu:.0f}){told}")


def _tint(saturation: np.ndarray, grey: np.ndarray) -> float | None:
    """Return how much more saturated than usual the glass among pixels (n,) is; None: they are no glass."""
    if np.median(saturation) <= GLASS_SATURATION:
        return 0.0
    counts = np.bincount(saturation[grey >= BRIGHT_GREY], minlength=256)
    peak = int(counts.argmax())
    around = counts[max(0, peak - GLASS_SPREAD) : peak + GLASS_SPREAD + 1].sum()
    return max(0.0, peak - USUAL_GLASS) if around > GLASS_SHARE * len(saturation) else None


def shares(
    mask: np.ndarray, level0_per_px: float, x_level0: np.ndarray, y_level0: np.ndarray, size_level0: int
) -> np.ndarray:
    """Return the share of each square that is tissue, from sums over the mask (cost: mask plus squares).

    Args:
        mask: (h, w) bool, of the whole slide.
        level0_per_px: level-0 pixels per pixel of the mask.
        x_level0: (n,) left edges, level-0 pixels.
        y_level0: (n,) top edges, level-0 pixels.
        size_level0: side of the squares, level-0 pixels.

    Returns:
        (n,) float64 in [0, 1]; a square smaller than a pixel of the mask gets that pixel's value.
    """
    height, width = mask.shape
    sums = cv2.integral(mask.view(np.uint8), sdepth=cv2.CV_64F)  # (h + 1, w + 1), whole numbers
    left, top = (np.floor(at / level0_per_px).astype(np.int64) for at in (x_level0, y_level0))
    right, bottom = (np.ceil((at + size_level0) / level0_per_px).astype(np.int64) for at in (x_level0, y_level0))
    left, right = np.clip(left, 0, width - 1), np.clip(right, 1, width)
    top, bottom = np.clip(top, 0, height - 1), np.clip(bottom, 1, height)
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return inside / ((right - left) * (bottom - top))


def _saturation(thumbnail: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(cv2.cvtColor(thumbnail, cv2.COLOR_RGB2HSV)[..., 1])


# By name in `TileConfig.background`: (patch, threshold) -> is it tissue?
PATCH_FILTERS: dict[str, Callable[[np.ndarray, float], bool]] = {
    "edge_energy": lambda patch, least: edge_energy(patch, len(patch)) > least,
    "white_fraction": lambda patch, most: white_fraction(patch) <= most,
    "canny_std": lambda patch, least: canny_std(patch) >= least,
}
