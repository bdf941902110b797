"""DSMIL, the multiple-instance aggregator, on several bags packed one after another.

    features (patches of all bags, dim) ─┬─ linear ─▶ instance logits ── argmax in each bag ─▶ critical instance m
                                         └─ h ─▶ q ── a = softmax(<q_i, q_m> / sqrt(128)) in each bag
                                                       └─▶ V sum(a h) ─▶ bag logit

Packing costs no padding: a bag of 50 patches and one of 100,000 take 100,050 rows, and every operation below works on
segments of the rows. Source: Li et al., CVPR 2021, eqs. 2 to 6, with one class. The value projection v = V h + b commutes
with the pooling, sum_i a_i (V h_i + b) = V (sum_i a_i h_i) + b, for the attention a sums to 1: it is done once a bag instead
of once a patch, which saves 45 % of the arithmetic of training.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

QUERY_DIM = 128


class Packed(NamedTuple):
    """Bags laid one after another.

    Attributes:
        features: (n, dim) rows of all bags.
        bag: (n,) int64, the bag of each row, increasing.
        sizes: (bags,) int64 rows in each bag, all at least 1.
    """

    features: torch.Tensor
    bag: torch.Tensor
    sizes: torch.Tensor


class Prediction(NamedTuple):
    """What the aggregator says: instance_logits (n,), bag_logits (bags,), attention (n,) summing to 1 in each bag."""

    instance_logits: torch.Tensor
    bag_logits: torch.Tensor
    attention: torch.Tensor


def pack(bags: list[torch.Tensor]) -> Packed:
    """Lay bags of shape (patches, dim) one after another."""
    sizes = torch.tensor([len(bag) for bag in bags], device=bags[0].device)
    num_rows = sum(len(bag) for bag in bags)  # told, or the CPU would wait for a GPU to count them
    return Packed(torch.cat(bags), torch.repeat_interleave(sizes, output_size=num_rows), sizes)


def pack_rows(sizes: np.ndarray, features: torch.Tensor) -> Packed:
    """Take features (n, dim) that lie one bag after another as bags of `sizes` (bags,) patches."""
    sizes_of = torch.from_numpy(sizes).to(features.device)
    return Packed(features, torch.repeat_interleave(sizes_of, output_size=len(features)), sizes_of)


def segment_sum(values: torch.Tensor, bag: torch.Tensor, num_bags: int) -> torch.Tensor:
    """Return the sums of `values` (n, ...) in each bag, (num_bags, ...)."""
    return values.new_zeros((num_bags, *values.shape[1:])).index_add(0, bag, values)


def segment_argmax(values: torch.Tensor, bag: torch.Tensor, num_bags: int) -> torch.Tensor:
    """Return the row (num_bags,) int64 of the highest value (n,) in each bag; the first of equals."""
    values = values.detach()
    best = values.new_full((num_bags,), -math.inf).scatter_reduce(0, bag, values, "amax")
    rows = torch.arange(len(values), device=values.device)
    rows = torch.where(values == best[bag], rows, len(values))
    return rows.new_full((num_bags,), len(values)).scatter_reduce(0, bag, rows, "amin")


def segment_softmax(values: torch.Tensor, bag: torch.Tensor, num_bags: int) -> torch.Tensor:
    """Return the softmax of `values` (n,) within each bag, (n,)."""
    highest = values.detach().new_full((num_bags,), -math.inf).scatter_reduce(0, bag, values.detach(), "amax")
    weights = torch.exp(values - highest[bag])
    return weights / segment_sum(weights, bag, num_bags)[bag]


def segment_top(values: torch.Tensor, bag: torch.Tensor, sizes: torch.Tensor, k: torch.Tensor | int) -> torch.Tensor:
    """Return the rows of the min(k, size) highest `values` (n,) in each bag, by bag, highest first.

    Args:
        k: one number, or one for each bag, (bags,) int64.
    """
    order = torch.argsort(values.detach(), descending=True, stable=True)
    order = order[torch.argsort(bag[order], stable=True)]  # by bag, highest first within each
    starts = torch.cumsum(sizes, 0) - sizes
    place = torch.arange(len(values), device=values.device) - starts[bag]
    return order[place < (k if isinstance(k, int) else k[bag])]


def segment_top_mean(values: torch.Tensor, bag: torch.Tensor, sizes: torch.Tensor, k: int) -> torch.Tensor:
    """Return the mean of the min(k, size) highest `values` (n,) in each bag, (bags,)."""
    chosen = segment_top(values, bag, sizes, k)
    return segment_sum(values[chosen], bag[chosen], len(sizes)) / sizes.clamp(max=k)


class DSMIL(nn.Module):
    """Dual-stream MIL aggregator with one output.

    Args:
        dim: feature dimension of the patches.
    """

    two_streams = True
    bag_is_highest = False

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.instance = nn.Linear(dim, 1)
        self.hidden = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, QUERY_DIM)
        self.value = nn.Linear(dim, dim)
        self.bag = nn.Conv1d(1, 1, kernel_size=dim)

    def forward(self, bags: Packed) -> Prediction:
        """Return instance logits, bag logits and attention of all bags."""
        num_bags = len(bags.sizes)
        instance_logits = self.score(bags.features)
        hidden, query = self.attend(bags.features)
        critical = query[segment_argmax(instance_logits, bags.bag, num_bags)]  # (bags, 128)
        # Every query meets every critical one, (bags, n): 128 products a pair of them, against 327,680 a patch for h and q.
        similarity = critical @ query.T / math.sqrt(QUERY_DIM)
        own = bags.bag == torch.arange(num_bags, device=query.device)[:, None]
        attention = torch.softmax(similarity.masked_fill(~own, -math.inf), dim=1)  # rows sum to 1, 0 outside the bag
        return Prediction(instance_logits, self.classify(attention @ hidden), attention.sum(0))

    def attend(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return h (n, dim) and the queries (n, 128) of patches (n, dim)."""
        hidden = torch.relu_(self.hidden(features))  # in place: no gradient needs what was before
        return hidden, torch.tanh_(self.query(hidden))

    def weigh(self, features: torch.Tensor, critical: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return exponents (n,) and values h (n, dim) of patches (n, dim), whose softmax-weighted mean is to be classified.

        Args:
            features: patches of one bag, or some of them.
            critical: (1, dim) the bag's critical patch.
        """
        hidden, query = self.attend(features)
        return query @ self.attend(critical)[1][0] / math.sqrt(QUERY_DIM), hidden

    def classify(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the bag logits (bags,) of the attention-weighted means of h, (bags, dim)."""
        logits: torch.Tensor = self.bag(self.value(pooled)[:, None])
        return logits.flatten()

    def score(self, features: torch.Tensor) -> torch.Tensor:
        """Return the instance logits (n,) of patches (n, dim); they do not depend on the bag."""
        return self.instance(features).squeeze(1)
