"""ABMILX and TransMIL by hand, and that their attention's matrix is never held."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hnm.aggregator.abmilx import ABMILX, HEAD_DIM
from hnm.aggregator.aggregators import build_aggregator
from hnm.aggregator.dsmil import pack
from hnm.aggregator.transmil import NUM_HEADS, SCORED_AT_ONCE, Layer, TransMIL
from shards.seeding import seeded_torch

BAG = torch.randn(7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def fresh(kind: str) -> nn.Module:
    with seeded_torch(0, "test"):
        return build_aggregator(kind, 12).double()


def test_abmilx_is_its_formula() -> None:
    model = fresh("abmilx")
    assert isinstance(model, ABMILX)
    with torch.no_grad():
        model.shortcut.copy_(torch.tensor([1.0, 0.5, 0.0, 2.0]))
        hidden, pooled, attention = torch.relu(model.hidden(BAG)), [], []
        for number, (head, own) in enumerate(zip(model.heads, hidden.chunk(4, dim=1), strict=True)):
            alone = head.attention(torch.tanh(head.query(own)) * torch.sigmoid(head.gate(own)))  # type: ignore[union-attr,operator]
            queries, keys = head.similar(own).chunk(2, dim=1)  # type: ignore[operator,union-attr]
            alike = (queries @ keys.T / HEAD_DIM**0.5).softmax(1)
            attention.append((alike @ alone + model.shortcut[number] * alone).softmax(0))
            pooled.append((attention[-1] * own).sum(0))
        said = model(pack([BAG]))
        torch.testing.assert_close(said.bag_logits, model.bag(torch.cat(pooled)))
        torch.testing.assert_close(said.attention, torch.stack(attention).mean(0).squeeze(1))


def test_transmil_is_two_layers_of_self_attention() -> None:
    model = fresh("transmil")
    assert isinstance(model, TransMIL)

    def layer(of: Layer, tokens: Tensor) -> Tensor:
        normed, seen = of.norm(tokens), []
        keys, values = of.keys_values(normed).chunk(2, dim=1)
        for q, k, v in zip(*(part.chunk(NUM_HEADS, dim=1) for part in (of.queries(normed), keys, values)), strict=True):
            seen.append((q @ k.T / q.shape[1] ** 0.5).softmax(1) @ v)
        added: Tensor = tokens + of.out(torch.cat(seen, dim=1))
        return added

    def logit(bag: Tensor) -> Tensor:
        tokens = torch.cat([model.token[0], torch.relu(model.hidden(bag))])
        return model.bag(model.norm(layer(model.second, layer(model.first, tokens))[0]))

    with torch.no_grad():
        said = model(pack([BAG, BAG[:1]]))
        torch.testing.assert_close(said.bag_logits, torch.cat([logit(BAG), logit(BAG[:1])]))
        torch.testing.assert_close(said.instance_logits[:2], torch.cat([logit(BAG[:1]), logit(BAG[1:2])]))


@pytest.mark.parametrize("kind", ["abmilx", "transmil"])
def test_attention_takes_the_kernel_that_holds_no_matrix(kind: str) -> None:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # refuses what it cannot do
        said = fresh(kind)(pack([BAG, BAG[:3]]))
        said.bag_logits.sum().backward()


def test_many_patches_are_scored_in_parts_with_the_same_gradient() -> None:
    model = fresh("transmil")
    many = torch.randn(SCORED_AT_ONCE + 3, 12, dtype=torch.float64, requires_grad=True)
    model.score(many).sum().backward()  # type: ignore[operator]
    rows = [0, SCORED_AT_ONCE - 1, SCORED_AT_ONCE, SCORED_AT_ONCE + 2]
    few = many.detach()[rows].requires_grad_()
    model.score(few).sum().backward()  # type: ignore[operator]
    assert many.grad is not None
    torch.testing.assert_close(many.grad[rows], few.grad)
    assert np.isfinite(many.grad.numpy()).all()
