"""The stain of a site: what every slide drawn there has in common, beside a stain of its own."""

from dataclasses import dataclass

import numpy as np

from shards.seeding import numpy_generator


@dataclass(frozen=True)
class SiteStain:
    """How a site's stain differs: `amounts` (2,) factors of haematoxylin and eosin, `turn` (2, 3) added to their vectors."""

    amounts: np.ndarray
    turn: np.ndarray


NO_SHIFT = SiteStain(np.ones(2), np.zeros((2, 3)))


def stain_of_site(seed: int, site: int) -> SiteStain:
    """Return how the stain of a site differs; site 0 is as drawn without sites."""
    if site == 0:
        return NO_SHIFT
    random = numpy_generator(seed, "site stain", site)
    return SiteStain(random.uniform(0.75, 1.3, 2), random.normal(0, 0.05, (2, 3)))
