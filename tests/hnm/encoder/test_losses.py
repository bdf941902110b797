import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from hnm.encoder.losses import PairMode, nt_xent, supcon, supcon_of_targets
from hnm.engine.ranks import World, single_world
from tests.paths import GOLDEN
from tests.ranks import on_ranks

SUPCON_MODES: dict[str, tuple[PairMode, bool]] = {
    "negative_pairs_masked": ("negative", True),
    "negative_pairs_unmasked": ("negative", False),
    "positive_pairs": ("positive", False),
    "all_pairs": ("all", False),
}


@pytest.mark.parametrize(("mode", "tau"), list(itertools.product(SUPCON_MODES, (0.07, 0.5))))
def test_supcon_matches_the_reference_program(mode: str, tau: float) -> None:
    golden = np.load(GOLDEN / "supcon.npz")
    pairs, mask = SUPCON_MODES[mode]
    features = torch.tensor(golden["features"], requires_grad=True)
    patch, slide = torch.tensor(golden["instance_label"] == 1), torch.tensor(golden["bag_label"] == 1)
    loss = supcon(features, patch, slide, [24], tau, pairs, single_world(), mask)
    loss.backward()
    assert loss.item() == pytest.approx(float(golden[f"{mode}_tau{tau}_loss"]), abs=1e-6)
    np.testing.assert_allclose(features.grad, golden[f"{mode}_tau{tau}_grad"], atol=1e-6)


@pytest.mark.parametrize(("size", "tau"), list(itertools.product((4, 16), (0.07, 0.5))))
def test_nt_xent_matches_the_reference_program(size: int, tau: float) -> None:
    golden = np.load(GOLDEN / "nt_xent.npz")
    views = np.stack([golden[f"n{size}_view1"], golden[f"n{size}_view2"]], axis=1)
    features = torch.tensor(views, requires_grad=True)
    loss = nt_xent(functional.normalize(features, dim=-1), [size], tau, single_world())
    loss.backward()
    assert loss.item() == pytest.approx(float(golden[f"n{size}_tau{tau}_loss"]), abs=1e-6)
    assert features.grad is not None
    for view in (0, 1):
        np.testing.assert_allclose(features.grad[:, view], golden[f"n{size}_tau{tau}_grad{view + 1}"], atol=1e-6)


def test_two_identical_patches_of_one_label_by_hand() -> None:
    features = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]], dtype=torch.float64)
    negative = torch.zeros(2, dtype=torch.bool)
    loss = supcon(features, negative, negative, [2], 1.0, "negative", single_world())
    # each anchor: one column at similarity 1 (its other view), two at 0; all three are its pairs
    log_sum = np.log(np.e + 2)
    expected = (1 / 0.07) * -((1 - log_sum) + 2 * (0 - log_sum)) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_an_anchor_without_a_pair_counts_zero() -> None:
    features = functional.normalize(torch.randn(3, 2, 4, dtype=torch.float64), dim=-1)
    nobody = torch.zeros(3, dtype=torch.bool)
    assert supcon(features, nobody, nobody, [3], 0.07, "positive", single_world()).item() == 0.0


@pytest.mark.parametrize("tau", [1e-3, 1e-2, 1.0])
def test_supcon_is_finite_for_any_tau(tau: float) -> None:
    features = functional.normalize(torch.randn(8, 2, 4), dim=-1).requires_grad_()
    labels = torch.arange(8) < 3
    loss = supcon(features, labels, labels, [8], tau, "all", single_world())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(features.grad).all()


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_order_of_patches_does_not_matter(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = functional.normalize(torch.randn(10, 2, 5, generator=generator, dtype=torch.float64), dim=-1)
    patch = torch.rand(10, generator=generator) < 0.3
    slide = patch | (torch.rand(10, generator=generator) < 0.3)
    order = torch.randperm(10, generator=generator)
    world = single_world()
    one = supcon(features, patch, slide, [10], 0.1, "negative", world)
    other = supcon(features[order], patch[order], slide[order], [10], 0.1, "negative", world)
    assert one.item() == pytest.approx(other.item(), rel=1e-10)


@pytest.mark.parametrize("pairs", ["negative", "positive", "all"])
def test_the_loss_of_targets_is_the_mean_of_those_that_the_batch_can_anchor(pairs: PairMode) -> None:
    generator = torch.Generator().manual_seed(0)
    features = functional.normalize(torch.randn(9, 2, 5, generator=generator, dtype=torch.float64), dim=-1).requires_grad_()
    first = torch.tensor([1, 0, 0, 1, 0, 1, 0, 0, 1])
    second = torch.tensor([-1, 1, 0, 0, -1, -1, 1, 0, -1])
    nothing, negative = torch.full((9,), -1), torch.where(first == 1, -1, 0)  # cannot anchor: no pair, or none of positives
    codes = torch.stack([first, second, nothing, *([negative] if pairs == "positive" else [])], dim=1)
    loss = supcon_of_targets(features, codes, [9], 0.2, pairs, single_world())
    (found,) = torch.autograd.grad(loss, features)
    alone = []
    for code in (first, second):
        part = code >= 0
        positive = code[part] == 1
        alone.append(supcon(features[part], positive, positive, [int(part.sum())], 0.2, pairs, single_world()))
    (expected,) = torch.autograd.grad(sum(alone) / 2, features)
    assert loss.item() == pytest.approx(sum(its.item() for its in alone) / 2, rel=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_a_batch_that_anchors_no_target_has_no_loss_and_no_gradient() -> None:
    features = torch.randn(4, 2, 3, requires_grad=True)
    loss = supcon_of_targets(features, torch.tensor([[-1], [-1], [0], [-1]]), [4], 0.07, "positive", single_world())
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss.item() == 0.0
    assert not gradient.any()


def losses_and_gradients(world: World) -> list[tuple[float, list[torch.Tensor]]]:
    """Return loss and parameter gradients (means over ranks) of all losses on this rank's share of 11 patches."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(11, 2, 6, generator=generator, dtype=torch.float64)
    patch = torch.rand(11, generator=generator) < 0.4
    slide = patch | (torch.rand(11, generator=generator) < 0.4)
    bounds = [11 * rank // world.size for rank in range(world.size + 1)]  # unequal shares on 2 and 3 ranks
    sizes = [stop - start for start, stop in itertools.pairwise(bounds)]
    mine = slice(bounds[world.rank], bounds[world.rank + 1])
    results = []
    codes = torch.stack([patch.long(), torch.where(slide, -1, 0), torch.full_like(patch, -1, dtype=torch.long)], dim=1)
    for name in ("nt_xent", "negative", "positive", "all", "targets"):
        layer = torch.nn.Linear(6, 4, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
            layer.bias.zero_()
        features = functional.normalize(layer(inputs[mine]), dim=-1)
        if name == "nt_xent":
            loss = nt_xent(features, sizes, 0.5, world)
        elif name == "targets":  # the second is nothing to some patches, the third to all
            loss = supcon_of_targets(features, codes[mine], sizes, 0.07, "negative", world)
        else:
            loss = supcon(features, patch[mine], slide[mine], sizes, 0.07, name, world)  # type: ignore[arg-type]
        loss.backward()
        values = [loss.detach(), *(parameter.grad for parameter in layer.parameters() if parameter.grad is not None)]
        if world.size > 1:
            for value in values:
                torch.distributed.all_reduce(value)
        results.append((values[0].item() / world.size, [value / world.size for value in values[1:]]))
    return results


@pytest.mark.parametrize("size", [2, 3])
def test_n_ranks_give_the_loss_and_gradient_of_one(size: int) -> None:
    expected = losses_and_gradients(single_world())
    for of_rank in on_ranks(size, losses_and_gradients):
        for (loss, gradients), (expected_loss, expected_gradients) in zip(of_rank, expected, strict=True):
            assert loss == pytest.approx(expected_loss, abs=1e-6)
            for gradient, wanted in zip(gradients, expected_gradients, strict=True):
                torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=0)
