"""CLAM's loss on the patches of highest and lowest attention, by hand."""

import math

import pytest
import torch
from torch.nn import functional

from hnm.aggregator.baselines import clam_losses
from hnm.aggregator.dsmil import Packed, Prediction, pack

BAGS = pack([torch.zeros(5, 1), torch.zeros(4, 1), torch.zeros(1, 1)])
ATTENTION = torch.tensor([0.1, 0.5, 0.2, 0.05, 0.15, 0.4, 0.3, 0.2, 0.1, 1.0])


def losses(bags: Packed, logits: torch.Tensor, positive: list[bool], top_k: int) -> torch.Tensor:
    prediction = Prediction(logits, torch.zeros(len(bags.sizes)), ATTENTION)
    return clam_losses(prediction, bags, torch.tensor(positive), top_k)


def test_by_hand() -> None:
    logits = torch.arange(10.0) / 10
    up, down = (lambda x: math.log1p(math.exp(-x))), (lambda x: math.log1p(math.exp(x)))  # -log sigmoid(x), -log(1 - it)
    # bag 0, positive: top two are patches 1 and 2, bottom two 3 and 0; bag 1, negative: top two 5 and 6; bag 2: patch 9
    expected = [(up(0.1) + up(0.2) + down(0.3) + down(0.0)) / 4, (down(0.5) + down(0.6)) / 2, up(0.9)]
    assert losses(BAGS, logits, [True, False, True], 2).tolist() == pytest.approx(expected)


def test_k_is_at_most_half_of_a_bag_and_no_patch_is_both() -> None:
    logits = torch.randn(10, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1.0, 1, 1, 0, 0])  # of patches 1, 2, 4 (top three), 0 and 3; the middle one, 4, is top only
    expected = functional.binary_cross_entropy_with_logits(logits[[1, 2, 4, 0, 3]], labels)
    assert losses(BAGS, logits, [True, True, True], 8)[0].item() == pytest.approx(expected.item())


def test_gradients_reach_the_chosen_patches_only() -> None:
    logits = torch.zeros(10, requires_grad=True)
    losses(BAGS, logits, [True, False, False], 1).sum().backward()
    assert logits.grad is not None
    assert logits.grad.nonzero().flatten().tolist() == [1, 3, 5, 9]
