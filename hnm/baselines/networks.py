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
from hnm.baselines.bags import Bags, log_loss, require_bags
from hnm.baselines.components import Components, fit_components
from shards.seeding import derive_seed, numpy_generator, seeded_torch

NUM_COMPONENTS, DROPOUT = 64, 0.5
MOST_EPOCHS, PATIENCE, PAIRS_PER_STEP, MOST_PATCHES = 100, 10, 8, 512
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-2


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
        components = fit_components(train.rows, NUM_COMPONENTS, derive_seed(seed, "components"))
        bags = [torch.from_numpy(components.of(bag)) for bag in train.features]
        draws = numpy_generator(seed, "baseline", self.kind)
        with seeded_torch(seed, "baseline", self.kind):  # dropout draws from it, too
            model = build_aggregator(self.kind, bags[0].shape[1])
            config = AggregateConfig(kind=self.kind, ranking_weight=0)
            optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
            best = FittedNetwork(components, copy.deepcopy(model), 0)
            lowest = log_loss(validation.labels, best.bag_logits(validation))
            for epoch in range(1, MOST_EPOCHS + 1):
                _train_epoch(model, optimizer, bags, train.labels, config, draws)
                now = FittedNetwork(components, model, epoch)
                loss = log_loss(validation.labels, now.bag_logits(validation))
                if loss < lowest:
                    lowest, best = loss, FittedNetwork(components, copy.deepcopy(model), epoch)
                if epoch - best.epoch >= PATIENCE:
                    break
        return best


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

    @torch.no_grad()
    def bag_logits(self, bags: Bags) -> np.ndarray:
        """Return (B,) float64 logits; of two streams their mean."""
        logits = []
        for bag in bags.features:
            said = self.model(pack([torch.from_numpy(self.components.of(bag))]))
            both = [said.bag_logits[0], said.instance_logits.max()] if self.model.two_streams else [said.bag_logits[0]]
            logits.append(float(torch.stack(both).double().mean()))
        return np.array(logits)

    def slide_scores(self, bags: Bags) -> np.ndarray:
        """Return (B,) float32 probabilities."""
        return torch.from_numpy(self.bag_logits(bags)).sigmoid().float().numpy()

    @torch.no_grad()
    def patch_scores(self, bags: Bags) -> list[np.ndarray]:
        """Return the instance logits, as hnm's aggregators define them."""
        return [self.model.score(torch.from_numpy(self.components.of(bag))).numpy() for bag in bags.features]


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
        packed = pack([functional.dropout(bag, DROPOUT) for bag in chosen])
        optimizer.zero_grad()
        pair_losses(model, packed, 1.0, config).mean().backward()
        optimizer.step()


def _some(bag: torch.Tensor, draws: np.random.Generator) -> torch.Tensor:
    """Return at most `MOST_PATCHES` rows of a bag, drawn without replacement."""
    if len(bag) <= MOST_PATCHES:
        return bag
    return bag[torch.from_numpy(draws.permutation(len(bag))[:MOST_PATCHES])]
