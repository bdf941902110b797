"""Seeds: the same everywhere, different for every purpose, and nothing global is moved."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from shards.seeding import derive_seed, numpy_generator, seeded_torch, torch_generator

purposes = st.lists(st.integers(0, 50) | st.text(max_size=5), max_size=4).map(tuple)


def test_a_seed_is_pinned() -> None:
    assert derive_seed(0, "plan", 1, 2) == 4953687576035064037  # another value would change every run ever made


@given(st.integers(0, 2**40), st.integers(0, 2**40), purposes, purposes)
def test_seeds_fit_and_differ(
    seed: int, other: int, purpose: tuple[int | str, ...], second: tuple[int | str, ...]
) -> None:
    value = derive_seed(seed, *purpose)
    assert 0 <= value < 2**63
    assert value == derive_seed(seed, *purpose)
    if (seed, purpose) != (other, second):
        assert value != derive_seed(other, *second)


def test_a_number_is_not_its_digits() -> None:
    assert derive_seed(0, 1) != derive_seed(0, "1")
    assert derive_seed(0, 1, 23) != derive_seed(0, 12, 3)


def test_generators_repeat() -> None:
    np.testing.assert_array_equal(numpy_generator(3, "a").random(4), numpy_generator(3, "a").random(4))
    assert torch.equal(
        torch.rand(4, generator=torch_generator(3, "a")), torch.rand(4, generator=torch_generator(3, "a"))
    )
    assert not np.array_equal(numpy_generator(3, "a").random(4), numpy_generator(3, "b").random(4))


def test_seeded_torch_leaves_the_global_generator_as_it_was() -> None:
    before = torch.random.get_rng_state()
    with seeded_torch(1, "weights"):
        inside = torch.rand(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    with seeded_torch(1, "weights"):
        assert torch.equal(torch.rand(3), inside)
