"""What a TIFF's directories say of its pixels: those that OpenSlide or Pillow would show in wrong colours are refused.

Neither tells the reader what it did: libtiff shrinks 16 bits to the upper 8 (a 12-bit camera's picture is black), the
first of several channels is shown as grey, a fourth channel of no stated meaning is taken for alpha, and tiles are
turned one by one where an orientation is stated.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import tifffile

from shards.errors import InputError
from shards.tiling.mpp import ome_pixels

GREY, RGB, PALETTE, INK, YCBCR = (0, 1), 2, 3, 5, 6  # tag 262, PhotometricInterpretation
ALPHA = (1,), (2,)  # tag 338, ExtraSamples: associated or not; 0 says nothing
ORIENTATION, INK_SET = 274, 332
MAX_PAGES = 512
LARGER = 1.5  # a page that much wider and higher than the one that is read makes this one a preview
SAVE = "Save the slide as 8-bit RGB"
# without a handler Python prints what tifffile has to say of strange headers; what matters of it is in our errors
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def refuse_wrong_colours(path: Path, vendor: str | None = None, size: tuple[int, int] | None = None) -> None:
    """Refuse a TIFF whose pixels would come out wrong.

    Args:
        path: the file.
        vendor: as OpenSlide detects it; None: it is read as a plain image.
        size: (width, height) of what is read, pixels; None: of the first page.

    Raises:
        InputError: what is stored, and what to do.
    """
    problem = None
    # tifffile raises whatever a strange header makes it raise: what OpenSlide or Pillow can read then stands
    with suppress(Exception), opened_tiff(path, vendor) as tiff:
        pages = [page for page in islice(tiff.pages, MAX_PAGES) if isinstance(page, tifffile.TiffPage)]
        problem = _bits(pages[0])
        if vendor in (None, "generic-tiff"):
            problem = problem or _colours(pages[0], vendor) or _planes(pages) or _preview(pages, size)
    if problem is not None:
        raise InputError(f"{path}: {problem}")


def is_cut_short(path: Path) -> bool:
    """Does a TIFF's header not hold, or point beyond the file's end?"""
    try:
        with opened_tiff(path, None) as tiff:
            page = tiff.pages.first
            ends = [begin + size for begin, size in zip(page.dataoffsets, page.databytecounts, strict=True)]
    except Exception:  # tifffile raises whatever a strange header makes it raise
        return True
    return max(ends, default=0) > path.stat().st_size


def compression_of(path: Path) -> str | None:
    """Return the name of a TIFF's compression; None: no TIFF, or its header is damaged."""
    with suppress(Exception), opened_tiff(path, None) as tiff:
        return str(tifffile.COMPRESSION(tiff.pages.first.compression).name)
    return None


@contextmanager
def opened_tiff(path: Path, vendor: str | None) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF; tifffile takes each file named .ndpi for a Hamamatsu's, whose offsets are longer: it gets another name."""
    name = path.name if vendor == "hamamatsu" else "tiff"
    with open(path, "rb") as file, tifffile.TiffFile(file, name=name) as tiff:
        yield tiff


def _bits(page: tifffile.TiffPage) -> str | None:
    bits = page.bitspersample
    most = max(bits) if isinstance(bits, Sequence) else bits
    return None if most <= 8 else f"pixels of {most} bits, and nobody knows which range of them was used. {SAVE}"


def _colours(page: tifffile.TiffPage, vendor: str | None) -> str | None:
    kind, samples, extra = int(page.photometric), page.samplesperpixel, tuple(map(int, page.extrasamples))
    colours = tifffile.PHOTOMETRIC(kind).name
    stored = {RGB: 3, YCBCR: 3, PALETTE: 1, INK: 4}.get(kind, 1 if kind in GREY else None)
    if stored is None:
        return f"its colours are stored as {colours}, which is not read. {SAVE}"
    others = samples - stored
    if others not in (0, 1) or (others and kind not in (*GREY, RGB)):
        return f"{samples} channels ({colours}). {SAVE}: fluorescence channels are no colours"
    is_alpha = extra[:1] in ALPHA
    if others and kind in GREY and not is_alpha:
        return f"2 channels, none of them stated to be alpha. {SAVE}"
    if others and vendor is not None and (kind in GREY or not is_alpha):
        return f"a channel beside {colours} that OpenSlide takes for alpha. {SAVE}, without it"
    if kind == INK and INK_SET in page.tags and int(page.tags[INK_SET].value) != 1:
        return f"inks that are not CMYK. {SAVE}"
    if vendor is not None and ORIENTATION in page.tags and int(page.tags[ORIENTATION].value) not in (0, 1):
        turned = int(page.tags[ORIENTATION].value)
        return f"its tag Orientation is {turned}, which OpenSlide applies to each tile alone. Save the slide upright"
    return None


def _planes(pages: Sequence[tifffile.TiffPage]) -> str | None:
    """Return what is wrong where a grey page is one channel of several."""
    first = pages[0]
    text = first.description or ""
    found = re.search(r"^channels=(\d+)", text, re.MULTILINE) if text.startswith("ImageJ") else None
    channels = int(found[1]) if found else 1
    pixels = ome_pixels(text, first.imagewidth, first.imagelength)
    if pixels is not None:
        channels = max(channels, int(pixels.get("SizeC", "1")))
        if first.samplesperpixel == 1 and any(_glows(channel) for channel in pixels.iter()):
            return f"a fluorescence channel, by its OME-XML. {SAVE}, as a bright field"
    alike = [page for page in pages[1:] if page.shape == first.shape and not page.is_reduced]
    if int(first.photometric) in GREY and first.samplesperpixel == 1:
        channels = max(channels, 1 + len(alike))
    if channels > max(first.samplesperpixel, 1):
        return f"{channels} channels or planes, each a grey picture of its own. {SAVE}: the first alone is not the slide"
    return None


def _glows(channel: object) -> bool:
    told = dict(getattr(channel, "attrib", {}))
    words = f"{told.get('ContrastMethod', '')} {told.get('IlluminationType', '')}".lower()
    return "Fluor" in told or "EmissionWavelength" in told or "fluorescence" in words


def _preview(pages: Sequence[tifffile.TiffPage], size: tuple[int, int] | None) -> str | None:
    width, height = size or (pages[0].imagewidth, pages[0].imagelength)
    for number, page in enumerate(pages[1:], start=2):
        if page.imagewidth > LARGER * width and page.imagelength > LARGER * height:
            return (
                f"what can be read of it is {width} x {height}, but its page {number} is {page.imagewidth} x "
                f"{page.imagelength}: only a preview would be read. Save the scan as the first page, in tiles"
            )
    return None
