"""The aggregators that DSMIL is compared with, on packed bags: attention MIL, CLAM-SB, max and mean pooling, SiMLP.

    features (patches of all bags, dim) ── h = ReLU(W x) ─┬─ head ─▶ instance logits ── max or mean in each bag ─▶ bag logit
                                                          └─ attention a, softmax in each bag ─ sum(a h) ─ head ─▶ bag logit

Widths are DSMIL's here (h as wide as the features, attention 128), so that the pooling is what differs.
"""

import torch
from torch import nn
from torch.nn import functional

from hnm.aggregator.dsmil import (
    QUERY_DIM,
    Packed,
    Prediction,
    segment_argmax,
    segment_softmax,
    segment_sum,
    segment_top,
)


class AttentionMIL(nn.Module):
    """Attention-based MIL (Ilse et al., ICML 2018, eqs. 7 to 9), and CLAM-SB (Lu et al., Nat. Biomed. Eng. 2021).

    A patch's instance logit is the bag logit of a bag that holds only this patch: head(h). CLAM has a second head for it,
    which `clam_losses` trains.

    Args:
        dim: feature dimension of the patches.
        gated: eq. 9, tanh times a sigmoid gate; otherwise eq. 8, tanh alone.
        instance_head: CLAM's head for patches.
    """

    two_streams = False
    bag_is_highest = False

    def __init__(self, dim: int, gated: bool, instance_head: bool = False) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, QUERY_DIM)
        self.gate = nn.Linear(dim, QUERY_DIM) if gated else None
        self.attention = nn.Linear(QUERY_DIM, 1)
        self.bag = nn.Linear(dim, 1)
        self.instance = nn.Linear(dim, 1) if instance_head else None

    def forward(self, bags: Packed) -> Prediction:
        """Return instance logits, bag logits and attention of all bags."""
        num_bags = len(bags.sizes)
        hidden = self.embed(bags.features)
        attention = segment_softmax(self.exponents(hidden), bags.bag, num_bags)
        pooled = segment_sum(attention[:, None] * hidden, bags.bag, num_bags)
        return Prediction(self.score_hidden(hidden), self.classify(pooled), attention)

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        """Return h (n, dim) of patches (n, dim)."""
        return torch.relu(self.hidden(features))

    def exponents(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the attention (n,) before the softmax."""
        query = torch.tanh(self.query(hidden))
        if self.gate is not None:
            query = query * torch.sigmoid(self.gate(hidden))
        exponents: torch.Tensor = self.attention(query)
        return exponents.squeeze(1)

    def score_hidden(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the instance logits (n,) of h (n, dim)."""
        head = self.bag if self.instance is None else self.instance
        logits: torch.Tensor = head(hidden)
        return logits.squeeze(1)

    def score(self, features: torch.Tensor) -> torch.Tensor:
        """Return the instance logits (n,) of patches (n, dim); they do not depend on the bag."""
        return self.score_hidden(self.embed(features))

    def weigh(self, features: torch.Tensor, critical: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return exponents (n,) and values (n, dim) of patches (n, dim); `critical` is DSMIL's."""
        hidden = self.embed(features)
        return self.exponents(hidden), hidden

    def classify(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the bag logits (bags,) of the attention-weighted means of h, (bags, dim)."""
        logits: torch.Tensor = self.bag(pooled)
        return logits.squeeze(1)


class Pooling(nn.Module):
    """Max or mean pooling of the patches' logits; with a linear head the latter is also the logit of the mean of h.

    Args:
        dim: feature dimension of the patches.
        highest: the bag logit is the highest instance logit; otherwise their mean.
    """

    two_streams = False

    def __init__(self, dim: int, highest: bool) -> None:
        super().__init__()
        self.bag_is_highest = highest
        self.hidden = nn.Linear(dim, dim)
        self.instance = nn.Linear(dim, 1)

    def forward(self, bags: Packed) -> Prediction:
        """Return instance logits, bag logits and the share that each patch has in its bag's, as attention."""
        num_bags, logits = len(bags.sizes), self.score(bags.features)
        if self.bag_is_highest:
            best = segment_argmax(logits, bags.bag, num_bags)
            return Prediction(logits, logits[best], torch.zeros_like(logits).index_fill(0, best, 1.0))
        share = 1 / bags.sizes.to(logits.dtype)[bags.bag]
        return Prediction(logits, segment_sum(logits * share, bags.bag, num_bags), share)

    def score(self, features: torch.Tensor) -> torch.Tensor:
        """Return the instance logits (n,) of patches (n, dim)."""
        logits: torch.Tensor = self.instance(torch.relu(self.hidden(features)))
        return logits.squeeze(1)

    def weigh(self, features: torch.Tensor, critical: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return exponents (n,), all equal, and the logits as values (n, 1), of patches (n, dim)."""
        logits = self.score(features)
        return torch.zeros_like(logits), logits[:, None]

    def classify(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the bag logits (bags,) of the mean logits (bags, 1)."""
        return pooled.squeeze(1)


class MeanMLP(nn.Module):
    """SiMLP: a small network on the mean of a slide's features (Li et al., arXiv 2502.20823), the strong trivial baseline.

    A patch's instance logit is the bag logit of a bag that holds only this patch: what the network, which sees nothing but
    means, makes of a slide that looks like this patch throughout. Widths as above; the paper's network may differ.

    Args:
        dim: feature dimension of the patches.
    """

    two_streams = False
    bag_is_highest = False

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, dim)
        self.bag = nn.Linear(dim, 1)

    def forward(self, bags: Packed) -> Prediction:
        """Return instance logits, bag logits and the share that each patch has in its bag's mean, as attention."""
        share = 1 / bags.sizes.to(bags.features.dtype)[bags.bag]
        mean = segment_sum(share[:, None] * bags.features, bags.bag, len(bags.sizes))
        return Prediction(self.score(bags.features), self.classify(mean), share)

    def score(self, features: torch.Tensor) -> torch.Tensor:
        """Return the instance logits (n,) of patches (n, dim); they do not depend on the bag."""
        return self.classify(features)

    def weigh(self, features: torch.Tensor, critical: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return exponents (n,), all equal, and the features as values (n, dim); `critical` is DSMIL's."""
        return features.new_zeros(len(features)), features

    def classify(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the bag logits (bags,) of the means of the features, (bags, dim)."""
        logits: torch.Tensor = self.bag(torch.relu(self.hidden(pooled)))
        return logits.squeeze(1)


def clam_losses(prediction: Prediction, bags: Packed, positive: torch.Tensor, top_k: int) -> torch.Tensor:
    """Return CLAM-SB's instance loss of each bag, (bags,): the patches of highest and lowest attention are pseudo-labelled.

    In a positive bag the top K should be positive and the bottom K negative, in a negative bag the top K negative: the
    two-class case of CLAM with one branch. Deviations: cross-entropy instead of the smooth top-1 SVM loss, and K is at most
    half of a bag, where CLAM's program fails on small bags.

    Args:
        prediction: of the bags.
        bags: packed.
        positive: (bags,) bool, the bags' labels.
        top_k: K.
    """
    attention, logits = prediction.attention.detach(), prediction.instance_logits
    k = torch.ceil(bags.sizes / 2).clamp(max=top_k).to(torch.int64)
    top = segment_top(attention, bags.bag, bags.sizes, k)
    bottom = segment_top(-attention, bags.bag, bags.sizes, k)
    bottom = bottom[positive[bags.bag[bottom]] & ~torch.isin(bottom, top)]
    rows = torch.cat([top, bottom])
    targets = torch.cat([positive[bags.bag[top]].to(logits.dtype), logits.new_zeros(len(bottom))])
    losses = functional.binary_cross_entropy_with_logits(logits[rows], targets, reduction="none")
    counts = segment_sum(torch.ones_like(losses), bags.bag[rows], len(bags.sizes))
    return segment_sum(losses, bags.bag[rows], len(bags.sizes)) / counts
