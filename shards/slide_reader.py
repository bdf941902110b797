"""Pixels of a slide, whatever the file format: `open_slide` gives an object with a size, an mpp and `read`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from shards.errors import InputError

# Only where a conversion to 8-bit RGB is certain: Pillow clips 16-bit and float images to white.
MODES_8_BIT = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")


@dataclass(frozen=True)
class PlainImage:
    """An ordinary image (PNG, JPEG, TIFF), held in memory.

    Attributes:
        pixels: (height, width, 3) uint8 RGB.
        mpp: None: the resolution tags of such files are of the printer's kind (72 dpi), so none is believed.
    """

    pixels: np.ndarray
    mpp: float | None = None

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    def read(self, x_level0: int, y_level0: int, size: int) -> np.ndarray:
        """Return the square whose top left pixel is (x_level0, y_level0).

        Args:
            x_level0: left edge, level-0 pixels.
            y_level0: top edge, level-0 pixels.
            size: side, level-0 pixels.

        Returns:
            (size, size, 3) uint8 RGB, contiguous.

        Raises:
            ValueError: the square is not wholly inside the image.
        """
        if min(x_level0, y_level0) < 0 or x_level0 + size > self.width or y_level0 + size > self.height:
            raise ValueError(
                f"({x_level0}, {y_level0}) size {size} is outside the image of {self.width} x {self.height}"
            )
        return np.ascontiguousarray(self.pixels[y_level0 : y_level0 + size, x_level0 : x_level0 + size])


@contextmanager
def open_slide(path: Path) -> Iterator[PlainImage]:
    """Open a slide for reading; what it holds is released at the end of the block.

    Raises:
        InputError: the file cannot be read as an image.
    """
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
