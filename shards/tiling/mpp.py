"""Microns per pixel: what a slide's header says, what of it can be believed, and pixel counts made from it.

    table (column mpp)  >  --assume-mpp where the file tells nonsense  >  header (openslide.mpp-x, -y)
      >  TIFF resolution tags  >  OME-XML  >  --assume-mpp where the file tells nothing  >  refused

An objective power is no resolution: "20x" is 0.5 um/px on one scanner and 0.46 or 0.25 on another. A printer's dots per
inch are none either, and OpenSlide 4 hands them on in openslide.mpp-x: what no microscope has is not believed, whoever
says so.
"""

import xml.etree.ElementTree
from collections.abc import Mapping
from typing import NamedTuple

from shards.cohort.cohort import Cohort
from shards.cohort.slides import PLAUSIBLE_MPP
from shards.errors import InputError

UM_PER_UNIT = {"centimeter": 10_000.0, "inch": 25_400.0}  # of tiff.ResolutionUnit
# of OME-XML's PhysicalSizeXUnit (OME 2016-06, UnitsLength); "pixel" and "reference frame" are no lengths
UM_PER_OME_UNIT = {
    "pm": 1e-6, "Å": 1e-4, "\N{ANGSTROM SIGN}": 1e-4, "nm": 1e-3, "µm": 1.0, "\N{GREEK SMALL LETTER MU}m": 1.0, "um": 1.0,
    "mm": 1e3, "cm": 1e4, "dm": 1e5, "m": 1e6, "thou": 25.4, "in": 25_400.0,
}  # fmt: skip
MAX_ANISOTROPY = 0.05
TOLD_ANISOTROPY = 0.01  # from here on `source` says both: 0.2522 by 0.2521 is square to anybody
MAX_UPSAMPLING = 1.25  # 0.27 um/px scanners serve 0.25; 0.5 um/px slides do not
UM_PER_PX_AT_1X = 10.0


class ToldMpp(NamedTuple):
    """What a file says of its pixels.

    Attributes:
        mpp: microns per pixel at level 0; None: nothing that can be believed.
        source: who says so: "header", "tags", "ome-xml" or ""; pixels that are not quite square are told here.
        disbelieved: what no microscope has, and who said so, or "".
    """

    mpp: float | None
    source: str
    disbelieved: str = ""


def told_mpp(properties: Mapping[str, str], width: int, height: int) -> ToldMpp:
    """Return microns per pixel at level 0 as a slide's properties tell it.

    Args:
        properties: OpenSlide's, by name.
        width: of the slide, level-0 pixels: OME-XML describes several images.
        height: of the slide, level-0 pixels.

    Raises:
        InputError: pixels are not square, by more than 5 %.
    """
    comment = properties.get("tiff.ImageDescription") or properties.get("openslide.comment") or ""
    pairs = {
        "header": tuple(_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"),
        "tags": tuple(_tag_mpp(properties, axis) for axis in "XY"),
        "ome-xml": ome_mpp(comment, width, height),
    }
    disbelieved: list[str] = []
    for source, (mpp_x, mpp_y) in pairs.items():
        if mpp_x is None or mpp_y is None:
            continue
        if PLAUSIBLE_MPP[0] <= min(mpp_x, mpp_y) and max(mpp_x, mpp_y) <= PLAUSIBLE_MPP[1]:
            return _square(mpp_x, mpp_y, source, ", ".join(disbelieved))
        disbelieved.append(f"{mpp_x:.4g} um/px ({source})")
    return ToldMpp(None, "", ", ".join(disbelieved))


def ome_mpp(description: str, width: int, height: int) -> tuple[float | None, float | None]:
    """Return microns per pixel, wide and high, of the image of this size in an OME-XML; None: it does not tell."""
    pixels = ome_pixels(description, width, height)
    return (None, None) if pixels is None else (_ome_length(pixels, "X"), _ome_length(pixels, "Y"))


def ome_pixels(description: str, width: int, height: int) -> xml.etree.ElementTree.Element | None:
    """Return the element Pixels of the image of this size, else of the first, in an OME-XML; None: it is none."""
    if "<OME" not in description and ":OME" not in description:
        return None
    try:
        root = xml.etree.ElementTree.fromstring(description.strip().strip("\0"))
    except (xml.etree.ElementTree.ParseError, ValueError):
        return None
    images = [element for element in root.iter() if element.tag.rpartition("}")[2] == "Pixels"]
    of_size = [its for its in images if (its.get("SizeX"), its.get("SizeY")) == (str(width), str(height))]
    return next(iter(of_size or images), None)


def _ome_length(pixels: xml.etree.ElementTree.Element, axis: str) -> float | None:
    um = UM_PER_OME_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").strip())
    length = _number(pixels.get(f"PhysicalSize{axis}"))
    return None if um is None or length is None else length * um


def _square(mpp_x: float, mpp_y: float, source: str, disbelieved: str) -> ToldMpp:
    if max(mpp_x, mpp_y) > (1 + MAX_ANISOTROPY) * min(mpp_x, mpp_y):
        raise InputError(
            f"pixels are not square: {mpp_x:g} um wide, {mpp_y:g} um high. Resample the slide, or state one mpp in "
            f"slides.csv, column mpp, if the header is wrong"
        )
    if max(mpp_x, mpp_y) > (1 + TOLD_ANISOTROPY) * min(mpp_x, mpp_y):
        source = f"{source}, mean of {mpp_x:.4g} wide and {mpp_y:.4g} high"
    return ToldMpp((mpp_x + mpp_y) / 2, source, disbelieved)


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


def patch_level0_of(cohort: Cohort, slide: int) -> int:
    """Return the side of a slide's patches, level-0 pixels."""
    if "patch_level0" in cohort.slides.column_names:  # where another tool has chosen it
        return int(cohort.slides["patch_level0"][slide].as_py())
    settings = cohort.info["settings"]
    return level0_px(settings["patch_px"], settings["mpp"], cohort.slides["source_mpp"][slide].as_py())


def mpp_of_magnification(magnification: float) -> float:
    """Return the microns per pixel that people mean by a magnification: 10 divided by it.

    Raises:
        InputError: not above 0.
    """
    if not 0 < magnification < float("inf"):
        raise InputError(f"--magnification {magnification:g}: give a number above 0, such as 20 (0.5 um per pixel)")
    return UM_PER_PX_AT_1X / magnification


def _tag_mpp(properties: Mapping[str, str], axis: str) -> float | None:
    unit = UM_PER_UNIT.get(properties.get("tiff.ResolutionUnit", ""))
    px_per_unit = _number(properties.get(f"tiff.{axis}Resolution"))
    return None if unit is None or px_per_unit is None else unit / px_per_unit


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None
