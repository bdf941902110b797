"""All aggregators by name. They have one interface:

    model(bags: Packed) -> Prediction          instance logits, bag logits, attention
    model.score(features)                      instance logits of patches, whatever their bag
    model.weigh(features, critical)            exponents and values whose softmax-weighted mean, `classify`d, is the bag logit:
    model.classify(pooled)                     a bag of any size is read chunk by chunk (hnm.aggregator.score.predict_bag)
    model.two_streams                          the highest instance logit is a second opinion on the bag, as in DSMIL
    model.bag_is_highest                       the bag logit is the highest instance logit

Where patches look at each other (abmilx, transmil), one method stands in the place of weigh and classify:

    model.bag_logit(read)                      the logit of one bag; read() gives its features, chunk by chunk, as often as asked
"""

from typing import Literal, get_args

import torch
from torch import nn

from hnm.aggregator.abmilx import ABMILX
from hnm.aggregator.baselines import AttentionMIL, MeanMLP, Pooling
from hnm.aggregator.dsmil import DSMIL, Packed, Prediction
from hnm.aggregator.transmil import TransMIL
from shards.errors import InputError

Kind = Literal["dsmil", "abmil", "abmil_gated", "clam_sb", "max", "mean", "simlp", "abmilx", "transmil"]
Correlated = ABMILX | TransMIL
Single = DSMIL | AttentionMIL | Pooling | MeanMLP | Correlated


class Ensemble(nn.Module):
    """Aggregators of one kind that differ in where they began; what they say is the mean of their logits.

    Each has a loss of its own and Adam treats each weight by itself: trained together they become what they would alone.

    Args:
        members: at least two.
    """

    def __init__(self, members: list[Single]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, bags: Packed) -> list[Prediction]:
        """Return what each member says of the bags."""
        return [member(bags) for member in self.members]

    def score(self, features: torch.Tensor) -> torch.Tensor:
        """Return the instance logits (n,) of patches (n, dim)."""
        return torch.stack([member.score(features) for member in self.members]).mean(0)  # type: ignore[operator]


Aggregator = Single | Ensemble


def build_aggregator(kind: str, dim: int, num_members: int = 1) -> Aggregator:
    """Return a fresh aggregator, or several as one, of patches of `dim` features, initialised from torch's global generator.

    Raises:
        InputError: there is no such kind.
    """
    members = [_build_one(kind, dim) for _ in range(num_members)]
    return Ensemble(members) if num_members > 1 else members[0]


def _build_one(kind: str, dim: int) -> Single:
    match kind:
        case "dsmil":
            return DSMIL(dim)
        case "abmil" | "abmil_gated":
            return AttentionMIL(dim, gated=kind == "abmil_gated")
        case "clam_sb":
            return AttentionMIL(dim, gated=True, instance_head=True)
        case "max" | "mean":
            return Pooling(dim, highest=kind == "max")
        case "simlp":
            return MeanMLP(dim)
        case "abmilx":
            return ABMILX(dim)
        case "transmil":
            return TransMIL(dim)
    raise InputError(f"aggregate.kind {kind!r} is none of {', '.join(get_args(Kind))}. Take the hnm that made this file")
