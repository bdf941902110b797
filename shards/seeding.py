"""Random generators derived from (seed, purpose): no global state, no clock, the same on every rank."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(seed: int, *purpose: int | str) -> int:
    """Return a 63-bit seed that depends on the run's seed and on what it is for.

    Args:
        seed: the run's seed.
        purpose: what the numbers are for, such as ("plan", round, epoch).

    Returns:
        An integer in [0, 2^63), the same on every machine and Python version.
    """
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def numpy_generator(seed: int, *purpose: int | str) -> np.random.Generator:
    """Return a NumPy generator for one purpose (see `derive_seed`)."""
    return np.random.default_rng(derive_seed(seed, *purpose))


def torch_generator(seed: int, *purpose: int | str) -> torch.Generator:
    """Return a CPU torch generator for one purpose (see `derive_seed`).

    On the CPU on purpose: the numbers are then the same whichever device the images are on.
    """
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


@contextmanager
def seeded_torch(seed: int, *purpose: int | str) -> Iterator[None]:
    """Run a block with torch's global CPU generator seeded for one purpose, and put it back afterwards.

    For module initialisers, which draw from the global generator whether one likes it or not.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, *purpose))
        yield
