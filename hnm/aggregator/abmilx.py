"""ABMILX: attention MIL with several heads, whose attention the similar patches of the bag have a say in.

    features ── h = ReLU(W x), cut into heads ─┬─ gated attention e_m of each patch ──┐
                                               └─ q_m, k_m: U = softmax(q_m k_m^T / sqrt(32)) over the bag
                       e_m' = U e_m + s_m e_m ── softmax in the bag ── sum(a_m h_m) of all heads, joined ─ head ─▶ bag logit

Source: Tang et al., arXiv 2506.02408: heads keep the attention from settling on a few patches early, and a patch is attended to
as those like it are, which leads more gradient to an encoder in training. Written from the paper's idea, without its program:
ours are the formulas in detail, the widths (DSMIL's: h as wide as the features, attention 128 over all heads), 4 heads, and the
weight s_m of the shortcut, which is learned and begins at 1.

U is exact and never held: one row of it after another is used up (scaled dot product attention). Memory grows with the
patches, time with their square.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from hnm.aggregator.dsmil import QUERY_DIM, Packed, Prediction
from hnm.aggregator.running_mean import RunningMean

NUM_HEADS = 4
HEAD_DIM = QUERY_DIM // NUM_HEADS


class Head(nn.Module):
    """One head's part of h (n, width) to its attention before the softmax (n,), and queries and keys (n, 32)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.gate = nn.Linear(width, HEAD_DIM), nn.Linear(width, HEAD_DIM)
        # No biases where a softmax takes them out again: Adam would make steps of the rounding errors of their gradients.
        self.attention = nn.Linear(HEAD_DIM, 1, bias=False)
        self.similar = nn.Linear(width, 2 * HEAD_DIM, bias=False)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        exponents: Tensor = self.attention(torch.tanh(self.query(hidden)) * torch.sigmoid(self.gate(hidden)))
        queries, keys = self.similar(hidden).chunk(2, dim=1)
        return exponents.squeeze(1), queries, keys


class ABMILX(nn.Module):
    """See above. A patch's instance logit is the bag logit of a bag that holds only this patch: head(h).

    Args:
        dim: feature dimension of the patches.
    """

    two_streams = False
    bag_is_highest = False

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.width = -(-dim // NUM_HEADS)
        self.hidden = nn.Linear(dim, NUM_HEADS * self.width)
        self.heads = nn.ModuleList(Head(self.width) for _ in range(NUM_HEADS))
        self.shortcut = nn.Parameter(torch.ones(NUM_HEADS))
        self.bag = nn.Linear(NUM_HEADS * self.width, 1)

    def forward(self, bags: Packed) -> Prediction:
        """Return instance logits, bag logits and the mean attention of the heads."""
        hidden, sizes = self.embed(bags.features), bags.sizes.tolist()
        pooled, attention = [], []
        known = zip(*(part.split(sizes) for part in self.look(hidden)), strict=True)
        for own, (exponents, queries, keys) in zip(hidden.split(sizes), known, strict=True):
            weights = self.refine(exponents, queries, keys, exponents).softmax(0)
            pooled.append(torch.einsum("nh,nhd->hd", weights, self.by_head(own)).flatten())
            attention.append(weights.mean(1))
        return Prediction(self.classify(hidden), self.classify(torch.stack(pooled)), torch.cat(attention))

    def embed(self, features: Tensor) -> Tensor:
        """Return h (n, heads * width) of patches (n, dim)."""
        return torch.relu(self.hidden(features))

    def by_head(self, hidden: Tensor) -> Tensor:
        """Return h as (n, heads, width)."""
        return hidden.view(-1, NUM_HEADS, self.width)

    def look(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return exponents (n, heads), queries and keys (n, heads, 32) of patches h, each by itself."""
        parts = [head(part) for head, part in zip(self.heads, hidden.split(self.width, dim=1), strict=True)]
        exponents, queries, keys = (torch.stack(of_heads, dim=1) for of_heads in zip(*parts, strict=True))
        return exponents, queries, keys

    def refine(self, exponents: Tensor, queries: Tensor, keys: Tensor, of_bag: Tensor) -> Tensor:
        """Return e' (n, heads) of some patches of a bag.

        Args:
            exponents: (n, heads) of these patches, and their queries (n, heads, 32).
            keys: (N, heads, 32) of all patches of the bag, and their exponents `of_bag` (N, heads).
        """
        # Values as wide as the keys, though one number is asked for: torch has kernels of bounded memory for that only.
        values = functional.pad(of_bag.T[..., None], (0, HEAD_DIM - 1))
        one = (queries.transpose(0, 1)[None], keys.transpose(0, 1)[None], values[None])
        similar = functional.scaled_dot_product_attention(*one)[0, :, :, 0].T
        return similar + self.shortcut * exponents

    def classify(self, pooled: Tensor) -> Tensor:
        """Return the logits (n,) of h, or of means of it, (n, heads * width)."""
        logits: Tensor = self.bag(pooled)
        return logits.squeeze(1)

    def score(self, features: Tensor) -> Tensor:
        """Return the instance logits (n,) of patches (n, dim); they do not depend on the bag."""
        return self.classify(self.embed(features))

    def bag_logit(self, read: Callable[[], Iterable[Tensor]]) -> Tensor:
        """Return the logit () of one bag that is read twice, in chunks (n, dim); of all patches 136 numbers are held."""
        known = [self.look(self.embed(rows))[::2] for rows in read()]
        of_bag, keys = (torch.cat(parts) for parts in zip(*known, strict=True))
        pool = RunningMean()
        for rows in read():
            hidden = self.embed(rows)
            exponents, queries, _ = self.look(hidden)
            pool.add(self.refine(exponents, queries, keys, of_bag), self.by_head(hidden))
        return self.classify(pool.mean().reshape(1, -1))[0]
