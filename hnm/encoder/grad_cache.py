"""A contrastive step in chunks: the loss and the gradients of the whole global batch, the activations of one chunk.

    1. without gradient:  views ──chunk by chunk──▶ projections of the whole batch
    2. loss(projections), and its gradient with respect to them: small, however large the images are
    3. replay:            each chunk again, with gradient; <projections, their gradient of 2.> goes backward, and adds up

One more forward pass (a step takes about 4/3 of the time) buys a batch of any size. Exact as long as a patch's projection
does not depend on the others in its forward pass: batch norm would see chunks, and is refused (hnm/config.py).
Source: Gao et al. 2021, arXiv 2101.06983.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from hnm.engine.engine import Engine
from shards.seeding import derive_seed


def backward_in_chunks(
    engine: Engine, views: Tensor, num_chunks: int, loss_of: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Add the gradients of the whole batch's loss to the engine's. Every rank must call it.

    Args:
        engine: trains a network that treats images one by one.
        views: (2 * local patches, 3, h, w).
        num_chunks: forward passes, the same on all ranks: some engines communicate in each.
        loss_of: the loss of features (local patches, 2, dim).

    Returns:
        The loss, and the features (local patches, 2, dim), both without gradient.
    """
    seed = torch.initial_seed()  # of this step: a chunk draws the same (dropout) in both its passes
    projections = outputs_of_chunks(engine, views, num_chunks, seed).requires_grad_()
    features = torch.stack(projections.chunk(2), dim=1)
    loss = loss_of(features)
    (gradient,) = torch.autograd.grad(loss, projections)
    replay(engine, views, num_chunks, gradient, seed)
    return loss.detach(), features.detach()


def outputs_of_chunks(engine: Engine, images: Tensor, num_chunks: int, seed: int) -> Tensor:
    """Return what the engine's model says of images (n, 3, h, w), (n, dim), without gradient (pass 1)."""
    chunks = enumerate(images.tensor_split(num_chunks))
    with torch.no_grad():
        return torch.cat([_forward(engine, chunk, seed, number) for number, chunk in chunks])


def replay(engine: Engine, images: Tensor, num_chunks: int, gradient: Tensor, seed: int, is_last: bool = True) -> None:
    """Send the gradient (n, dim) of what the model said of the images backward, chunk by chunk (pass 3).

    Args:
        is_last: the step has no other backward pass after this one.
    """
    chunks = zip(images.tensor_split(num_chunks), gradient.tensor_split(num_chunks), strict=True)
    for number, (chunk, part) in enumerate(chunks):
        with engine.accumulate() if number + 1 < num_chunks or not is_last else nullcontext():
            engine.backward((_forward(engine, chunk, seed, number) * part).sum())


def count_chunks(sizes: list[int], chunk_size: int) -> int:
    """Return how many forward passes the patches of all ranks (sizes) need; chunk_size 0 = all at once."""
    return max(1, math.ceil(max(sizes) / chunk_size)) if chunk_size else 1


def _forward(engine: Engine, chunk: Tensor, seed: int, number: int) -> Tensor:
    torch.manual_seed(derive_seed(seed, "chunk", number))
    projections: Tensor = engine.model(chunk)
    return projections
