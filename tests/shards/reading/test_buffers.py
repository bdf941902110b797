"""shards.reading.buffers: memory comes back when, and only when, nothing shares it."""

import torch

from shards.reading.buffers import BatchBuffers


def test_memory_is_used_again_once_free() -> None:
    buffers = BatchBuffers(2)
    first = buffers.take((4, 3))
    address = first.data_ptr()
    assert buffers.take((4, 3)).data_ptr() != address
    del first
    assert buffers.take((2, 3)).data_ptr() == address


def test_any_view_keeps_it() -> None:
    buffers = BatchBuffers(1)
    for keep in (
        lambda t: t.permute(1, 0),
        lambda t: t[1],
        lambda t: t.numpy(),
        lambda t: t.numpy()[2:],
        lambda t: torch.utils.data.default_convert({"images": t}),
    ):
        taken = buffers.take((4, 3))
        address = taken.data_ptr()
        kept = keep(taken)
        del taken
        other = buffers.take((4, 3))
        assert other.data_ptr() != address
        del kept, other
    assert buffers.take((4, 3)).data_ptr() == address


def test_small_free_memory_makes_room() -> None:
    buffers = BatchBuffers(1)
    buffers.take((2,))
    large = buffers.take((100,))
    address = large.data_ptr()
    del large
    assert buffers.take((100,)).data_ptr() == address


def test_an_empty_batch() -> None:
    assert BatchBuffers(0).take((0, 8, 8, 3)).shape == (0, 8, 8, 3)
