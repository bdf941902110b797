"""TransMIL: two layers of self-attention over the patches of a bag and a class token, which is classified.

    features ── ReLU(W x) ─▶ tokens (n, width) ┐
                        class token (1, width) ┴─ x + attention(norm(x)), 8 heads, twice ─▶ class token ─ norm ─ head ─▶ logit

Source: Shao et al., NeurIPS 2021, arXiv 2106.00908. Deviations: attention is exact, where the paper's is Nystrom's with
landmarks that are means of neighbouring rows; and there is no convolution between the layers (PPEG) over the rows folded into
a square, for here a bag is a set of patches, often a random part of the slide: their order in it says little of where they lie.
So the order of the patches does not matter, as in every other aggregator here. Tokens are 512 wide as in the paper, or as wide as
the features, if these are narrower.

The attention's matrix is never held (scaled dot product attention): memory grows with the patches, time with their square.
Of the second layer only the class token's row is computed: nothing else of it is looked at.
"""

from collections.abc import Callable, Iterable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hnm.aggregator.dsmil import Packed, Prediction
from hnm.aggregator.running_mean import RunningMean

MOST_WIDTH, NUM_HEADS = 512, 8
SCORED_AT_ONCE = 4096  # patches, each a bag of its own with a token: 25 KB of what a backward pass needs


class Layer(nn.Module):
    """Self-attention with a norm before and a shortcut around it, on tokens (b, n, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        # Without biases: a softmax takes those of keys out, and Adam would make steps of their gradients' rounding errors.
        self.queries, self.keys_values = (nn.Linear(width, n * width, bias=False) for n in (1, 2))
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, known: Tensor) -> Tensor:
        """Return tokens (b, n, width) that have looked at N others, whose keys and values are `known` (b, N, 2 width)."""
        keys, values = self.split(known)
        seen = functional.scaled_dot_product_attention(self.ask(tokens), keys.transpose(1, 2), values.transpose(1, 2))
        return self.add(tokens, seen.transpose(1, 2).flatten(2))

    def know(self, tokens: Tensor) -> Tensor:
        """Return the keys and values (b, n, 2 width) of tokens."""
        known: Tensor = self.keys_values(self.norm(tokens))
        return known

    def split(self, known: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, (b, n, heads, d) each."""
        keys, values = known.unflatten(2, (2 * NUM_HEADS, -1)).chunk(2, dim=2)
        return keys, values

    def ask(self, tokens: Tensor) -> Tensor:
        """Return the queries (b, heads, n, d) of tokens."""
        queries: Tensor = self.queries(self.norm(tokens))
        return queries.unflatten(2, (NUM_HEADS, -1)).transpose(1, 2)

    def add(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """Return the tokens with what they have seen, (b, n, width)."""
        added: Tensor = tokens + self.out(seen)
        return added


class TransMIL(nn.Module):
    """See above. A patch's instance logit is the bag logit of a bag that holds only this patch (and the class token).

    Args:
        dim: feature dimension of the patches.
    """

    two_streams = False
    bag_is_highest = False

    def __init__(self, dim: int) -> None:
        super().__init__()
        width = NUM_HEADS * -(-min(dim, MOST_WIDTH) // NUM_HEADS)
        self.hidden = nn.Linear(dim, width)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.first, self.second = Layer(width), Layer(width)
        self.norm, self.bag = nn.LayerNorm(width), nn.Linear(width, 1)

    def forward(self, bags: Packed) -> Prediction:
        """Return instance logits, bag logits, and as attention the class token's in the second layer, mean of the heads."""
        tokens = self.embed(bags.features)[None].split(bags.sizes.tolist(), dim=1)
        found = [self.look(lambda own=own: [own]) for own in tokens]  # type: ignore[misc]
        logits = torch.cat([logit for logit, _ in found])
        attention = torch.cat([exponents.softmax(0).mean(1) for _, exponents in found])
        return Prediction(self.score(bags.features), logits, attention)

    def embed(self, features: Tensor) -> Tensor:
        """Return tokens (n, width) of patches (n, dim)."""
        return torch.relu(self.hidden(features))

    def look(self, read: Callable[[], Iterable[Tensor]]) -> tuple[Tensor, Tensor]:
        """Return the logit (1,) of one bag, and the class token's last exponents of its patches (n, heads).

        Args:
            read: gives the bag's tokens in chunks (1, n, width), each time it is called.
        """
        known = torch.cat([self.first.know(self.token), *(self.first.know(tokens) for tokens in read())], dim=1)
        token = self.first(self.token, known)
        query = self.second.ask(token)[0, :, 0]
        pool, exponents_of = RunningMean(), []
        for tokens in chain([self.token], read()):
            keys, values = self.second.split(self.second.know(self.first(tokens, known)))
            exponents_of.append((keys[0] * query).sum(2) / query.shape[1] ** 0.5)
            pool.add(exponents_of[-1], values[0])
        token = self.second.add(token, pool.mean().reshape(1, 1, -1))
        return self.classify(token[:, 0]), torch.cat(exponents_of[1:])

    def classify(self, tokens: Tensor) -> Tensor:
        """Return the logits (n,) of class tokens (n, width)."""
        logits: Tensor = self.bag(self.norm(tokens))
        return logits.squeeze(1)

    def score(self, features: Tensor) -> Tensor:
        """Return the instance logits (n,) of patches (n, dim); they do not depend on the bag."""
        if len(features) <= SCORED_AT_ONCE:
            return self._alone(features)
        parts = features.split(SCORED_AT_ONCE)
        if not torch.is_grad_enabled():
            return torch.cat([self._alone(part) for part in parts])
        return torch.cat([checkpoint(self._alone, part, use_reentrant=False) for part in parts])

    def bag_logit(self, read: Callable[[], Iterable[Tensor]]) -> Tensor:
        """Return the logit () of one bag that is read twice, in chunks (n, dim); of all patches keys and values are held."""
        return self.look(lambda: (self.embed(rows)[None] for rows in read()))[0][0]

    def _alone(self, features: Tensor) -> Tensor:
        """Return the logits (n,) of n bags, each of the class token and one patch."""
        patches = self.embed(features)[:, None]
        pairs = torch.cat([self.token.expand(len(patches), -1, -1), patches], dim=1)  # (n, 2, width)
        pairs = self.first(pairs, self.first.know(pairs))
        return self.classify(self.second(pairs[:, :1], self.second.know(pairs))[:, 0])
