"""JPEG bytes to pixels, straight into one batch array."""

import numpy as np
import simplejpeg

_START_OF_IMAGE = b"\xff\xd8"


class DecodeError(Exception):
    """Bytes that are not one whole RGB-decodable JPEG of the expected size."""


def image_shape(data: bytes | memoryview) -> tuple[int, int]:
    """Return (height, width) from a JPEG's header.

    Raises:
        DecodeError: the bytes are no JPEG.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise DecodeError(_reason(data, error)) from error
    return height, width


def decode_into(data: bytes | memoryview, image: np.ndarray) -> None:
    """Decode a JPEG into its place in the batch, without a copy and without the GIL.

    Args:
        data: a whole JPEG.
        image: (height, width, 3) uint8, C-contiguous: filled with RGB.

    Raises:
        DecodeError: the JPEG is damaged, or of another size than `image`.
    """
    try:
        decoded = simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=image)
    except ValueError as error:
        raise DecodeError(_reason(data, error)) from error
    if decoded.shape != image.shape:
        height, width = decoded.shape[:2]
        expected = f"{image.shape[0]} x {image.shape[1]}"
        raise DecodeError(f"the JPEG is {height} x {width} pixels, the cohort's patches are {expected}")


def _reason(data: bytes | memoryview, error: ValueError) -> str:
    if bytes(data[:2]) == _START_OF_IMAGE:
        return f"the JPEG is damaged ({error})"
    return "there is no JPEG at that place (overwritten, or the table is of another build)"
