"""Batch arrays that are used again once nobody holds them.

Pages fresh from the kernel are zeroed at their first touch, 4 % of the time to decode a patch of 224 px, and memory
that was written a moment ago is still in the processor's cache.
"""

import threading
import weakref

import numpy as np
import torch


class BatchBuffers:
    """Lends uint8 tensors and takes their memory back by itself when the last tensor that shares it is gone."""

    def __init__(self, max_kept: int) -> None:
        """Keep at most `max_kept` arrays; more tensors than that in use at once have memory of their own."""
        self._max_kept = max_kept
        self._lock = threading.Lock()
        self._slots: list[_Slot] = []

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a tensor (shape, uint8, uninitialized) whose memory is not in use."""
        with self._lock:
            slot = self._free_slot(int(np.prod(shape))) or _Slot()
            return torch.from_numpy(slot.lend(shape))

    def _free_slot(self, num_bytes: int) -> "_Slot | None":
        """Return the first free slot, so that as few as possible are in turn, rather one that is large enough."""
        free = [slot for slot in self._slots if slot.is_free]
        if not free and len(self._slots) < self._max_kept:
            free = [_Slot()]
            self._slots += free
        return next((slot for slot in free if len(slot.memory) >= num_bytes), free[0] if free else None)


class _Slot:
    """One array, and who has it."""

    def __init__(self) -> None:
        self.memory = np.empty(0, dtype=np.uint8)
        self._lent: weakref.ref[np.ndarray] | None = None

    @property
    def is_free(self) -> bool:
        return self._lent is None or self._lent() is None

    def lend(self, shape: tuple[int, ...]) -> np.ndarray:
        num_bytes = int(np.prod(shape))
        if len(self.memory) < num_bytes:
            self.memory = np.empty(num_bytes, dtype=np.uint8)
        # torch holds this very array as long as any tensor shares its storage. (A NumPy view of it would hold `memory`
        # instead: only tensors may leave this module.)
        lent = self.memory[:num_bytes].reshape(shape)
        self._lent = weakref.ref(lent)
        return lent
