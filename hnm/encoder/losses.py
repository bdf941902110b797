"""Contrastive losses over the global batch: NT-Xent (SimCLR) and supervised contrastive loss (SupCon).

Every rank passes its own patches; the other ranks' features come by an all-gather with gradient, so N ranks give the
loss and the gradient of one process on the concatenated batch. A rank's loss is scaled such that the mean over ranks,
which is what DDP's gradient averaging computes, is the global loss, also when the ranks hold unequal shares.

    rank r:  features (local patches, 2 views, dim) --gather--> (patches, 2, dim)
             local anchors x all columns -> log-softmax without self -> mean over each anchor's pairs
"""

from typing import Literal

import torch
from torch.nn import functional

from hnm.engine.ranks import World, gather_rows

PairMode = Literal["negative", "positive", "all"]

SUPCON_BASE_TAU = 0.07  # Khosla et al., eq. 2 as released: the loss is scaled by tau / 0.07


def _cosine_logits(features: torch.Tensor, sizes: list[int], tau: float, world: World) -> tuple[torch.Tensor, int]:
    """Return logits of local anchors against all columns, self excluded, and the first local patch's position.

    Anchors and columns are ordered view-major: column j is view j // patches of patch j % patches.

    Args:
        features: (local patches, 2, dim) unit-norm rows.

    Returns:
        (2 * local patches, 2 * patches) fp32 or fp64 logits with -inf on self, and the offset of the local patches.
    """
    features = features if features.dtype == torch.float64 else features.float()
    everyone = gather_rows(features, sizes, world)  # (patches, 2, dim)
    first = sum(sizes[: world.rank])
    anchors = torch.cat(everyone[first : first + sizes[world.rank]].unbind(1))  # (2 * local, dim)
    columns = torch.cat(everyone.unbind(1))  # (2 * patches, dim)
    logits = anchors @ columns.T / tau
    return logits.masked_fill(_self_mask(first, sizes, world), float("-inf")), first


def _self_mask(first: int, sizes: list[int], world: World) -> torch.Tensor:
    """Return (2 * local, 2 * patches) bool, true where the column is the anchor itself."""
    num_patches, num_local = sum(sizes), sizes[world.rank]
    local = torch.arange(first, first + num_local, device=world.device)
    own_column = torch.cat([local, local + num_patches])
    return own_column[:, None] == torch.arange(2 * num_patches, device=world.device)[None]


def nt_xent(features: torch.Tensor, sizes: list[int], tau: float, world: World) -> torch.Tensor:
    """Return the NT-Xent loss (Chen et al. 2020, eq. 1): each view is to find the other view of its patch.

    Every rank must call it.

    Args:
        features: (local patches, 2 views, dim) unit-norm projections.
        sizes: patches on every rank; sizes[rank] == len(features).
        tau: temperature.

    Returns:
        A scalar; its mean over the ranks is the mean over all 2 * sum(sizes) anchors.
    """
    logits, first = _cosine_logits(features, sizes, tau, world)
    num_patches, num_local = sum(sizes), sizes[world.rank]
    local = torch.arange(first, first + num_local, device=logits.device)
    other_view = torch.cat([local + num_patches, local])
    loss = functional.cross_entropy(logits, other_view, reduction="sum")
    return loss * world.size / (2 * num_patches)


def supcon(
    features: torch.Tensor,
    positive_patch: torch.Tensor,
    positive_slide: torch.Tensor,
    sizes: list[int],
    tau: float,
    pairs: PairMode,
    world: World,
    mask_uncertain: bool = True,
) -> torch.Tensor:
    """Return the supervised contrastive loss (Khosla et al. 2020, eq. 2; ItS2CLR's weakly supervised form).

    Two views or patches are a pair when they have the same pseudo label; `pairs` says which kind counts. Uncertain
    patches (positive slide, pseudo label 0) make no negative pairs as anchors and, with `mask_uncertain`, are left out
    of the denominator of negative anchors. The sum runs over all anchors and is divided by their number: an anchor
    without a pair counts zero. Stable for any tau (log-sum-exp).

    Every rank must call it.

    Args:
        features: (local patches, 2 views, dim) unit-norm projections.
        positive_patch: (local patches,) bool, the pseudo label.
        positive_slide: (local patches,) bool, the label of the patch's slide.
        sizes: patches on every rank.
        tau: temperature.
        pairs: "negative": only negative-negative pairs; "positive": only positive-positive; "all": both.
        mask_uncertain: leave uncertain patches out of the negative anchors' denominators.

    Returns:
        A scalar; its mean over the ranks is the global loss.
    """
    logits, first = _cosine_logits(features, sizes, tau, world)
    labels = torch.stack([positive_patch, positive_slide], dim=1).to(features.device, torch.float32)
    with torch.no_grad():
        labels = gather_rows(labels, sizes, world).bool().repeat(2, 1)  # (2 * patches, 2), view-major
    column_positive, column_slide = labels[:, 0], labels[:, 1]
    num_patches, num_local = sum(sizes), sizes[world.rank]
    local = torch.arange(first, first + num_local, device=logits.device)
    anchor_positive = column_positive[torch.cat([local, local + num_patches])][:, None]
    is_self = torch.isneginf(logits.detach())

    pair = (anchor_positive == column_positive) & ~is_self
    if pairs != "all":
        pair = pair & (anchor_positive == (pairs == "positive"))
    if mask_uncertain:
        uncertain = column_slide & ~column_positive
        logits = logits.masked_fill(~anchor_positive & uncertain, float("-inf"))
        pair = pair & ~uncertain
    log_share = logits - torch.logsumexp(logits, dim=1, keepdim=True)
    num_pairs = pair.sum(1)
    of_anchor = -torch.where(pair, log_share, 0.0).sum(1) / num_pairs.clamp(min=1)
    return of_anchor.sum() * (tau / SUPCON_BASE_TAU) * world.size / (2 * num_patches)


def supcon_of_targets(
    features: torch.Tensor, codes: torch.Tensor, sizes: list[int], tau: float, pairs: PairMode, world: World
) -> torch.Tensor:
    """Return the mean of `supcon` over the targets that the batch can anchor; zero, with gradient zero, if there is none.

    A target sees the batch without the patches that are nothing to it, and its loss is the mean over all that are left. It can
    be anchored where one of them is of the kind whose pairs count. With one target, to which every patch is something, this is
    `supcon`.

    Every rank must call it.

    Args:
        features: (local patches, 2 views, dim) unit-norm projections.
        codes: (local patches, targets) int8: the pseudo label 1 or 0, -1 nothing to that target.
        sizes, tau, pairs, world: see `supcon`.

    Returns:
        A scalar; its mean over the ranks is the global loss.
    """
    logits, first = _cosine_logits(features, sizes, tau, world)
    num_patches, num_local = sum(sizes), sizes[world.rank]
    with torch.no_grad():
        columns = gather_rows(codes.to(features.device, torch.float32), sizes, world).repeat(2, 1)  # (2 * patches, targets)
    local = torch.arange(first, first + num_local, device=logits.device)
    anchors = columns[torch.cat([local, local + num_patches])]
    wanted = {"negative": (0,), "positive": (1,), "all": (0, 1)}[pairs]
    losses = [
        _sum_over_anchors(logits, anchor, column, wanted) / (column >= 0).sum()
        for column, anchor in zip(columns.T, anchors.T, strict=True)
        if any(bool((column == code).any()) for code in wanted)  # the same on all ranks: all have all columns
    ]
    if not losses:
        return logits.masked_fill(torch.isneginf(logits), 0.0).sum() * 0.0
    return torch.stack(losses).mean() * (tau / SUPCON_BASE_TAU) * world.size


def _sum_over_anchors(
    logits: torch.Tensor, anchor: torch.Tensor, column: torch.Tensor, wanted: tuple[int, ...]
) -> torch.Tensor:
    """Return the sum of one target's losses over its local anchors of the wanted codes; each has the other view of its patch.

    Args:
        logits: (2 * local, 2 * patches), -inf on self.
        anchor: (2 * local,) codes of the anchors.
        column: (2 * patches,) codes of the columns.
    """
    rows = torch.cat([torch.nonzero(anchor == code)[:, 0] for code in wanted])
    logits = logits[rows].masked_fill(column == -1, float("-inf"))
    pair = (anchor[rows, None] == column) & ~torch.isneginf(logits.detach())  # neither self nor outside
    log_share = logits - torch.logsumexp(logits, dim=1, keepdim=True)
    return -(torch.where(pair, log_share, 0.0).sum(1) / pair.sum(1)).sum()
