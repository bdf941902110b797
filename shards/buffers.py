"""Batch arrays that are used again once nobody holds them.

Pages fresh from the kernel are zeroed at their first touch: about 16 us for a patch of 96 px, a quarter of its decoding.
"""

import weakref

import numpy as np
import torch


class BatchBuffers:
    """Lends uint8 tensors and takes their memory back by itself when the last tensor that shares it is gone.

    Not for several threads at once.
    """

    def __init__(self, max_kept: int) -> None:
        """Keep at most `max_kept` arrays; more tensors than that in use at once have memory of their own."""
        self._max_kept = max_kept
        self._lent: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a tensor (shape, uint8, uninitialized) whose memory is not in use."""
        num_bytes = int(np.prod(shape))
        free = next((n for n, (memory, lent) in enumerate(self._lent) if lent() is None and len(memory) >= num_bytes), None)
        if free is None:
            memory = np.empty(num_bytes, dtype=np.uint8)
            self._lent = [entry for entry in self._lent if entry[1]() is not None or len(entry[0]) >= num_bytes]
        else:
            memory, _ = self._lent.pop(free)
        view = memory[:num_bytes].reshape(shape)
        if len(self._lent) < self._max_kept:
            # torch holds `view` as long as any tensor shares its storage, so a dead reference means free memory.
            self._lent.append((memory, weakref.ref(view)))
        return torch.from_numpy(view)
