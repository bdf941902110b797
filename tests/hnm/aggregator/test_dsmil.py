import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm.aggregator.dsmil import DSMIL, pack, segment_argmax, segment_softmax, segment_sum, segment_top_mean
from tests.paths import GOLDEN

OUR_NAMES = {
    "i_classifier.fc.0": "instance",
    "b_classifier.lin.0": "hidden",
    "b_classifier.q.0": "query",
    "b_classifier.v.1": "value",
    "b_classifier.fcc": "bag",
}


def golden_model() -> DSMIL:
    """Return the reference program's network of 32-d features under our names."""
    golden = np.load(GOLDEN / "dsmil.npz")
    state = {}
    for key in golden.files:
        if key.startswith("weight/"):
            layer, parameter = key.removeprefix("weight/").rsplit(".", 1)
            state[f"{OUR_NAMES[layer]}.{parameter}"] = torch.tensor(golden[key])
    model = DSMIL(32).double()
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("packed", [False, True])
def test_forward_matches_the_reference_program(packed: bool) -> None:
    golden, model = np.load(GOLDEN / "dsmil.npz"), golden_model()
    bags = [torch.tensor(golden[f"bag{i}_x"]) for i in range(3)]
    batches = [(range(3), model(pack(bags)))] if packed else [([i], model(pack([bags[i]]))) for i in range(3)]
    for numbers, prediction in batches:
        for ours, name in zip(prediction, ("instance_logit", "bag_logit", "attention"), strict=True):
            expected = np.concatenate([golden[f"bag{i}_{name}"].ravel() for i in numbers])
            np.testing.assert_allclose(ours.detach(), expected, atol=1e-6)


sizes_strategy = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@settings(max_examples=30)
@given(sizes_strategy, st.integers(1, 5), st.integers(0, 1000))
def test_segments_agree_with_a_loop_over_bags(sizes: list[int], k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bags = [torch.randint(-3, 4, (size,), generator=generator).double() for size in sizes]  # with ties
    values, bag = torch.cat(bags), pack([b[:, None] for b in bags]).bag
    counts, starts = torch.tensor(sizes), np.cumsum([0, *sizes[:-1]])
    assert torch.equal(segment_sum(values, bag, len(bags)), torch.stack([b.sum() for b in bags]))
    argmax = [int(start) + int(b.numpy().argmax()) for start, b in zip(starts, bags, strict=True)]
    assert segment_argmax(values, bag, len(bags)).tolist() == argmax
    top = torch.stack([b.sort(descending=True).values[:k].mean() for b in bags])
    torch.testing.assert_close(segment_top_mean(values, bag, counts, k), top)
    softmax = torch.cat([torch.softmax(500 * b, 0) for b in bags])
    torch.testing.assert_close(segment_softmax(500 * values, bag, len(bags)), softmax)


def test_attention_sums_to_one_in_each_bag_also_for_large_features() -> None:
    bags = pack([torch.full((3, 32), 1e6).double(), torch.full((1, 32), -1e6).double()])
    attention = golden_model()(bags).attention
    torch.testing.assert_close(segment_sum(attention, bags.bag, 2), torch.ones(2).double())


def test_packed_gradients_equal_the_loop_over_bags() -> None:
    model, generator = golden_model(), torch.Generator().manual_seed(3)
    bags = [torch.randn(n, 32, generator=generator, dtype=torch.float64) for n in (1, 5, 30)]
    model(pack(bags)).bag_logits.sum().backward()
    packed = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    for bag in bags:
        model(pack([bag])).bag_logits.sum().backward()
    looped = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    torch.testing.assert_close(packed, looped)


def test_order_of_patches_does_not_change_the_bag() -> None:
    model = golden_model()
    bag = torch.randn(20, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned = model(pack([bag.flip(0)]))
    torch.testing.assert_close(model(pack([bag])).bag_logits, turned.bag_logits)
