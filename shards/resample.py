"""One way to change the size of an image: area average to shrink, Lanczos to enlarge."""

import cv2
import numpy as np

# Patches are small and slides are cut in parallel: OpenCV's own threads would only fight over the cores.
cv2.setNumThreads(1)


def resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the image as (height, width, 3), each pixel the mean of the area it covers when it shrinks.

    Args:
        pixels: (h, w, 3) uint8.
        width: of the result, pixels.
        height: of the result, pixels.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = pixels.shape[0] >= height and pixels.shape[1] >= width
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4)
