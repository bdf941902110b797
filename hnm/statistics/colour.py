"""What colours the patches of a slide have: eight figures of a histogram, to see that another laboratory stains otherwise.

    patches (n, h, w, 3) uint8 ──every 4th pixel of every 4th row──▶ counts (3, 256) ──▶ means, deviations, stains

A stain's amount is linear in the optical densities of the channels, and so its mean needs their histograms only.
"""

import numpy as np

from shards.tiling.stain import LIGHT, REFERENCE_STAINS

EVERY_PX = 4  # a sixteenth of the pixels tell a mean as well, and cost a GPU no time
CHANNELS = ("red", "green", "blue")
COLOURS = (
    *(f"{channel}_mean" for channel in CHANNELS), *(f"{channel}_deviation" for channel in CHANNELS), "haematoxylin", "eosin"
)  # fmt: skip


class ColourCounts:
    """How often each value occurs in each channel of a slide's patches.

    Attributes:
        counts: (3, 256) int64, red, green and blue.
    """

    def __init__(self) -> None:
        self.counts = np.zeros((3, 256), np.int64)

    def add(self, patches: np.ndarray) -> None:
        """Count the pixels of patches, (n, h, w, 3) uint8 RGB."""
        some = patches[:, ::EVERY_PX, ::EVERY_PX]
        for channel, counts in enumerate(self.counts):
            counts += np.bincount(some[..., channel].ravel(), minlength=256)

    def figures(self) -> dict[str, float]:
        """Return `COLOURS`: mean and standard deviation of the channels, 0 to 255, and the mean amounts of both stains.

        Amounts are optical densities (natural logarithm) along Macenko's reference vectors. Empty without a pixel.
        """
        num = int(self.counts[0].sum())
        if num == 0:
            return {}
        values = np.arange(256.0)
        share = self.counts / num  # (3, 256)
        mean = share @ values
        deviation = np.sqrt(np.maximum(share @ values**2 - mean**2, 0))
        density = share @ -np.log(np.maximum(values, 1.0) / LIGHT)
        stains = density @ np.linalg.pinv(REFERENCE_STAINS)
        return dict(zip(COLOURS, np.concatenate([mean, deviation, stains]).round(4).tolist(), strict=True))
