"""Softmax-weighted means of values that come chunk by chunk, as if all had come at once: memory holds one chunk."""

import torch
from torch import Tensor


class RunningMean:
    """The mean of values weighted by the softmax of their exponents; several heads are means of their own."""

    def __init__(self) -> None:
        self.top, self.weight, self.total = torch.tensor(-torch.inf), torch.tensor(0.0), torch.tensor(0.0)

    def add(self, exponents: Tensor, values: Tensor) -> None:
        """Take in some rows.

        Args:
            exponents: (n,), or (n, heads).
            values: (n, d), or (n, heads, d).
        """
        highest = exponents.detach().amax(0)
        new_top = torch.maximum(self.top.to(highest), highest)
        attention, shrink = torch.exp(exponents - new_top), torch.exp(self.top.to(highest) - new_top)
        summed = attention.movedim(0, -1).unsqueeze(-2) @ values.movedim(0, -2)
        self.weight = shrink * self.weight.to(highest) + attention.sum(0)
        self.total = shrink[..., None] * self.total.to(highest) + summed.squeeze(-2)
        self.top = new_top

    def mean(self) -> Tensor:
        """Return (d,), or (heads, d); at least one row must have come."""
        return self.total / self.weight[..., None]
