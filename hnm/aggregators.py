"""All aggregators by name. They have one interface:

    model(bags: Packed) -> Prediction          instance logits, bag logits, attention
    model.score(features)                      instance logits of patches, whatever their bag
    model.weigh(features, critical)            exponents and values whose softmax-weighted mean, `classify`d, is the bag logit:
    model.classify(pooled)                     a bag of any size is read chunk by chunk (hnm.score.predict_bag)
    model.two_streams                          the highest instance logit is a second opinion on the bag, as in DSMIL
    model.bag_is_highest                       the bag logit is the highest instance logit
"""

from typing import Literal, get_args

from hnm.aggregator import DSMIL
from hnm.baselines import AttentionMIL, Pooling
from shards.errors import InputError

Kind = Literal["dsmil", "abmil", "abmil_gated", "clam_sb", "max", "mean"]
Aggregator = DSMIL | AttentionMIL | Pooling


def build_aggregator(kind: str, dim: int) -> Aggregator:
    """Return a fresh aggregator of patches of `dim` features, initialised from torch's global generator.

    Raises:
        InputError: there is no such kind.
    """
    match kind:
        case "dsmil":
            return DSMIL(dim)
        case "abmil" | "abmil_gated":
            return AttentionMIL(dim, gated=kind == "abmil_gated")
        case "clam_sb":
            return AttentionMIL(dim, gated=True, instance_head=True)
        case "max" | "mean":
            return Pooling(dim, highest=kind == "max")
    raise InputError(f"aggregate.kind {kind!r} is none of {', '.join(get_args(Kind))}. Take the hnm that made this file")
