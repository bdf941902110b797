"""`simlp`, `abmil`, `dsmil`: a small aggregator network on frozen features, kept from learning a few dozen bags by heart.

    patches ── standardised ── PCA ──▶ features dropped at random ──▶ hnm.aggregator's network, Adam with weight decay
                                                                        └─ the epoch of lowest validation loss stays

Each step takes pairs of a positive and a negative bag, of each at most `MOST_PATCHES` patches, drawn anew.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from hnm.aggregator.aggregate import AggregateConfig, pair_losses, pair_slides
from hnm.aggregator.aggregators import Aggregator, Kind, build_aggregator
from hnm.aggregator.dsmil import pack
from hnm.baselines.bags import Bags, log_loss, require_bags, sigmoid
from hnm.baselines.components import Components
from shards.seeding import numpy_generator, seeded_torch

DROPOUT = 0.5
MOST_EPOCHS, PATIENCE, PAIRS_PER_STEP, MOST_PATCHES = 60, 8, 8, 96
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-2


@dataclass(frozen=True)
class Network:
    """An aggregator's network.

    Attributes:
        kind: its name among hnm's aggregators.
    """

    kind: Kind

    def fit(self, train: Bags, validation: Bags, seed: int) -> "FittedNetwork":
        """Train until the validation loss has not fallen for `PATIENCE` epochs; the best epoch stays."""
        require_bags(train, validation)
        bags, judged = (_projected(some, train.components) for some in (train, validation))
        draws = numpy_generator(seed, "baseline", self.kind)
        with seeded_torch(seed, "baseline", self.kind):  # dropout draws from it, too
            model = build_aggregator(self.kind, bags[0].shape[1])
            config = AggregateConfig(kind=self.kind, ranking_weight=0)
            optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
            lowest, best, best_epoch = np.inf, model.state_dict(), 0
            for epoch in range(MOST_EPOCHS + 1):
                if epoch:
                    _train_epoch(model, optimizer, bags, train.labels, config, draws)
                if (loss := log_loss(validation.labels, _bag_logits(model, judged))) < lowest:
                    lowest, best, best_epoch = loss, copy.deepcopy(model.state_dict()), epoch
                if epoch - best_epoch >= PATIENCE:
                    break
        model.load_state_dict(best)
        return FittedNetwork(train.components, model, best_epoch)


@dataclass(frozen=True)
class FittedNetwork:
    """A trained network on components.

    Attributes:
        components: of the features.
        model: the network.
        epoch: after which its validation loss was lowest.
    """

    components: Components
    model: Aggregator
    epoch: int

    @property
    def chosen(self) -> dict[str, float]:
        """The epoch."""
        return {"epochs": self.epoch}

    def slide_scores(self, bags: Bags) -> np.ndarray:
        """Return (B,) float32, the sigmoid of the bag logit; of two streams of their logits' mean."""
        return sigmoid(_bag_logits(self.model, _projected(bags, self.components)))

    @torch.no_grad()
    def patch_scores(self, bags: Bags) -> list[np.ndarray]:
        """Return the instance logits, as hnm's aggregators define them."""
        return [self.model.score(bag).numpy() for bag in _projected(bags, self.components)]


def _projected(bags: Bags, components: Components) -> list[torch.Tensor]:
    return [torch.from_numpy(components.of(bag)) for bag in bags.features]


@torch.no_grad()
def _bag_logits(model: Aggregator, bags: list[torch.Tensor]) -> np.ndarray:
    """Return (B,) float64 logits of bags; of two streams their mean."""
    logits = []
    for bag in bags:  # one by one: memory holds one
        said = model(pack([bag]))
        both = [said.bag_logits[0], said.instance_logits.max()] if model.two_streams else [said.bag_logits[0]]
        logits.append(float(torch.stack(both).double().mean()))
    return np.array(logits)


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    bags: list[torch.Tensor],
    labels: np.ndarray,
    config: AggregateConfig,
    draws: np.random.Generator,
) -> None:
    """Take one step for each few pairs of bags, all positive and all negative bags mixed anew."""
    for pairs in pair_slides(np.flatnonzero(labels == 1), np.flatnonzero(labels == 0), PAIRS_PER_STEP, draws):
        chosen = [_some(bags[i], draws) for i in pairs.T.ravel()]  # positives first, then negatives
        packed = pack(chosen)
        optimizer.zero_grad()
        pair_losses(model, packed._replace(features=functional.dropout(packed.features, DROPOUT)), 1.0, config).mean().backward()
        optimizer.step()


def _some(bag: torch.Tensor, draws: np.random.Generator) -> torch.Tensor:
    """Return at most `MOST_PATCHES` rows of a bag, drawn without replacement."""
    if len(bag) <= MOST_PATCHES:
        return bag
    return bag[torch.from_numpy(draws.permutation(len(bag))[:MOST_PATCHES])]
