"""Microns per pixel: taken from a slide's header, never from its objective power, and turned into pixel counts.

    table (column mpp)  >  header (openslide.mpp-x, -y)  >  TIFF resolution tags  >  --assume-mpp  >  refused

An objective power is no resolution: "20x" is 0.5 um/px on one scanner and 0.46 or 0.25 on another.
"""

from collections.abc import Mapping

from shards.errors import InputError

UM_PER_UNIT = {"centimeter": 10_000.0, "inch": 25_400.0}  # of tiff.ResolutionUnit
PLAUSIBLE_MPP = (0.02, 50.0)  # a printer's 72 dpi is 353 um/px, 300 dpi is 85: not a microscope's
MAX_ANISOTROPY = 0.05
MAX_UPSAMPLING = 1.25  # 0.27 um/px scanners serve 0.25; 0.5 um/px slides do not
UM_PER_PX_AT_1X = 10.0


def header_mpp(properties: Mapping[str, str]) -> float | None:
    """Return microns per pixel at level 0 as a slide's properties tell it, or None if they don't.

    Args:
        properties: OpenSlide's, by name.

    Raises:
        InputError: pixels are not square, by more than 5 %.
    """
    mpp_x, mpp_y = _number(properties.get("openslide.mpp-x")), _number(properties.get("openslide.mpp-y"))
    if mpp_x is None or mpp_y is None:
        mpp_x, mpp_y = (_tag_mpp(properties, axis) for axis in "XY")
    if mpp_x is None or mpp_y is None:
        return None
    if max(mpp_x, mpp_y) > (1 + MAX_ANISOTROPY) * min(mpp_x, mpp_y):
        raise InputError(
            f"pixels are not square: {mpp_x:g} um wide, {mpp_y:g} um high. Resample the slide, or state one mpp in "
            f"slides.csv, column mpp, if the header is wrong"
        )
    return (mpp_x + mpp_y) / 2


def level0_px(size_px: int, mpp: float | None, source: float | None) -> int:
    """Return how many level-0 pixels `size_px` pixels at `mpp` cover.

    Args:
        size_px: length in pixels of the stored patch.
        mpp: microns per pixel of the stored patch; None: level-0 pixels as they are.
        source: microns per pixel at level 0; None: unknown.

    Raises:
        InputError: `mpp` is asked for and the slide's is unknown, or too coarse: pixels would have to be invented.
    """
    if mpp is None:
        return size_px
    if source is None:
        raise InputError(
            f"mpp {mpp:g} is asked for, but the slide's microns per pixel are unknown. Say what they are: "
            f"slides.csv, column mpp, or --assume-mpp 0.5 for all slides that don't tell"
        )
    if source > mpp * MAX_UPSAMPLING:
        raise InputError(f"the slide has {source:g} microns per pixel, too coarse for mpp {mpp:g}. Set tile.mpp higher")
    return max(1, round(size_px * mpp / source))


def mpp_of_magnification(magnification: float) -> float:
    """Return the microns per pixel that people mean by a magnification: 10 divided by it.

    Raises:
        InputError: not above 0.
    """
    if not 0 < magnification < float("inf"):
        raise InputError(f"--magnification {magnification:g}: give a number above 0, such as 20 (0.5 um per pixel)")
    return UM_PER_PX_AT_1X / magnification


def _tag_mpp(properties: Mapping[str, str], axis: str) -> float | None:
    """Return what TIFF's resolution tag says, if it can be a microscope's."""
    unit = UM_PER_UNIT.get(properties.get("tiff.ResolutionUnit", ""))
    px_per_unit = _number(properties.get(f"tiff.{axis}Resolution"))
    if unit is None or px_per_unit is None:
        return None
    mpp = unit / px_per_unit
    return mpp if PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1] else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None
