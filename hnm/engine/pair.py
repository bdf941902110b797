"""Two networks trained as one, each by an engine and optimizer of its own: an encoder and what stands on it."""

from contextlib import AbstractContextManager
from pathlib import Path

from torch import Tensor

from hnm.engine.engine import Engine


class PairedEngine:
    """See hnm/engine/engine.py: Engine. Backward passes go through the two engines; all the rest is of both.

    Args:
        encoder: its files in a checkpoint have the usual names.
        head: a smaller network on the encoder's outputs, never trained in chunks.
        head_rate: the head's learning rate for each unit of the encoder's: both follow one schedule.
    """

    HEAD = "head-"  # what the head's files in a checkpoint begin with

    def __init__(self, encoder: Engine, head: Engine, head_rate: float) -> None:
        self.encoder, self.head, self.head_rate = encoder, head, head_rate
        self.model = encoder.model

    def set_rate(self, lr: float) -> None:
        """See `Engine`."""
        self.encoder.set_rate(lr)
        self.head.set_rate(lr * self.head_rate)

    def backward(self, loss: Tensor) -> None:
        """See `Engine`; of a loss of the encoder alone."""
        self.encoder.backward(loss)

    def accumulate(self) -> AbstractContextManager[object]:
        """See `Engine`; of the encoder."""
        return self.encoder.accumulate()

    def squared_norm(self) -> Tensor:
        """See `Engine`."""
        return self.encoder.squared_norm() + self.head.squared_norm()

    def step(self, scale: float = 1.0) -> None:
        """See `Engine`."""
        self.encoder.step(scale)
        self.head.step(scale)

    def save(self, folder: Path, prefix: str = "") -> None:
        """See `Engine`."""
        self.encoder.save(folder, prefix)
        self.head.save(folder, prefix + self.HEAD)

    def load(self, folder: Path, prefix: str = "") -> None:
        """See `Engine`."""
        self.encoder.load(folder, prefix)
        self.head.load(folder, prefix + self.HEAD)

    def full_weights(self) -> dict[str, Tensor]:
        """See `Engine`; of the encoder."""
        return self.encoder.full_weights()
