"""Pixels of a slide, whatever the format: `open_slide` gives something with a size, an mpp, `read`, `thumbnail`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from shards.errors import InputError
from shards.resample import resize
from shards.tiling.foreign import is_tiff, refuse_foreign, text_of
from shards.tiling.mpp import ToldMpp, told_mpp
from shards.tiling.pyramid import Pyramid, open_pyramid, require_inside, vendor_of
from shards.tiling.tiff_header import compression_of, refuse_wrong_colours

# of TIFF, that Pillow reads: with these a failure is damage
READ_COMPRESSIONS = ("NONE", "LZW", "JPEG", "ADOBE_DEFLATE", "DEFLATE", "PACKBITS", "LZMA", "ZSTD", "CCITT_T6")
# Only where a conversion to 8-bit RGB is certain: Pillow clips 16-bit and float images to white.
MODES_8_BIT = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")


@dataclass(frozen=True)
class PlainImage:
    """An ordinary image (PNG, JPEG, TIFF), held in memory.

    Attributes:
        pixels: (height, width, 3) uint8 RGB.
        mpp: microns per pixel if its OME-XML tells; the resolution tags of such files are a printer's, never believed.
        mpp_from: who says so.
        needs_mpp: whether an unknown mpp is a reason to refuse the image.
    """

    pixels: np.ndarray
    mpp: float | None = None
    mpp_from: str = "header"
    needs_mpp = False
    bounds = None  # the image is the scan
    downsamples = (1.0,)

    @property
    def told_reader(self) -> dict[str, Any]:
        """What a `Unit` says of who has read the pixels."""
        return {}

    @property
    def told(self) -> ToldMpp:
        """Microns per pixel as the file tells."""
        return ToldMpp(self.mpp, self.mpp_from if self.mpp is not None else "")

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    def read(self, x_level0: int, y_level0: int, size_level0: int, size_px: int) -> np.ndarray:
        """Return a square of the image, as `Pyramid.read` does of a pyramid."""
        require_inside(x_level0, y_level0, size_level0, self.width, self.height)
        square = self.pixels[y_level0 : y_level0 + size_level0, x_level0 : x_level0 + size_level0]
        return resize(np.ascontiguousarray(square), size_px, size_px)

    def thumbnail(self, max_px: int) -> tuple[np.ndarray, float]:
        """Return the whole image at `max_px` pixels at most, and how many level-0 pixels one of its pixels is wide."""
        factor = max(1.0, max(self.width, self.height) / max_px)
        width, height = (max(1, round(side / factor)) for side in (self.width, self.height))
        return resize(self.pixels, width, height), factor


SlideReader = PlainImage | Pyramid


@contextmanager
def open_slide(path: Path) -> Iterator[SlideReader]:
    """Open a slide for reading; what it holds is released at the end of the block.

    Raises:
        InputError: there is no such file, or it can be read neither as a pyramid nor as an image.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder. Name the slide's file: of a MIRAX slide the .mrxs, of DICOM one .dcm of it")
    if not path.is_file():
        raise InputError(f"{path}: there is no such file. Download it, or correct or remove its row in slides.csv")
    vendor = vendor_of(path)
    refuse_foreign(path, vendor)
    if vendor is not None:
        with open_pyramid(path) as pyramid:
            if is_tiff(path):
                refuse_wrong_colours(path, vendor, (pyramid.width, pyramid.height))
            yield pyramid
    else:
        yield _read_image(path)


def _read_image(path: Path) -> PlainImage:
    if is_tiff(path):
        refuse_wrong_colours(path)
    try:
        with Image.open(path) as image:
            _refuse_deep(path, image)
            told = told_mpp({"tiff.ImageDescription": _description(image)}, *image.size)
            pixels = np.asarray(_as_rgb(path, image))
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: too big for a plain image ({error}). Save it as a tiled pyramid") from None
    # Pillow's readers raise SyntaxError and ValueError for some broken files.
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as an image ({error}). {_remedy(path)}") from None
    return PlainImage(pixels, told.mpp, told.source)


def _as_rgb(path: Path, image: Image.Image) -> Image.Image:
    """Return the image as it is displayed: upright, in RGB, on white."""
    image.load()  # Pillow turns a TIFF upright then, and only a TIFF
    image = ImageOps.exif_transpose(image)
    if image.mode not in MODES_8_BIT:
        raise InputError(f"{path}: pixels of kind {image.mode!r}. Save the image as 8-bit RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    # What is transparent is glass: white, where Pillow would make it black.
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _refuse_deep(path: Path, image: Image.Image) -> None:
    """Refuse more than 8 bits a channel where Pillow drops the lower ones without a word (a TIFF's header tells)."""
    bits = 8
    with open(path, "rb") as file:
        head = file.read(4096)
    if image.format == "PNG":
        bits = head[24]  # of IHDR, which comes first
    elif image.format == "JPEG2000" and (at := head.find(b"\xff\x51")) >= 0 and len(head) > at + 40:
        bits = (head[at + 40] & 0x7F) + 1  # Ssiz of the first component, in the marker SIZ
    if bits > 8:
        raise InputError(f"{path}: pixels of {bits} bits. Save the image as 8-bit RGB")


def _description(image: Image.Image) -> str:
    tags = getattr(image, "tag_v2", {})
    return str(tags.get(270, ""))


def _remedy(path: Path) -> str:
    if (text := text_of(path)) is not None:
        return f"It is a text, which begins with {text}. Download the slide itself, or remove its row"
    compression = compression_of(path) if is_tiff(path) else None
    if compression is not None and compression not in READ_COMPRESSIONS:
        return f"Its compression {compression} is not read here: save it with another, or as a tiled pyramid"
    return "Copy the file anew, or remove its row"
