"""Pixels of a slide, whatever the format: `open_slide` gives something with a size, an mpp, `read`, `thumbnail`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from shards.errors import InputError
from shards.resample import resize
from shards.tiling.mpp import ToldMpp
from shards.tiling.pyramid import Pyramid, is_pyramid, open_pyramid, require_inside

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
    if not path.is_file():
        raise InputError(f"{path}: there is no such file. Download it, or correct or remove its row in slides.csv")
    if is_pyramid(path):
        with open_pyramid(path) as pyramid:
            yield pyramid
    else:
        yield PlainImage(_read_rgb(path))


def _read_rgb(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if image.mode not in MODES_8_BIT:
                raise InputError(f"{path}: pixels of kind {image.mode!r}. Save the image as 8-bit RGB")
            if not image.has_transparency_data:
                return np.asarray(image.convert("RGB"))
            # What is transparent is glass: white, where Pillow would make it black.
            white = Image.new("RGBA", image.size, "white")
            return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: too big for a plain image ({error}). Save it as a tiled pyramid") from None
    # Pillow's readers raise SyntaxError and ValueError for some broken files.
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as an image ({error}). Copy the file anew, or remove its row"
        ) from None
