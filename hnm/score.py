"""Score: slides by both streams of the aggregator, patches by its instance stream, gathered on rank 0."""

import numpy as np
import torch

from hnm.aggregator import DSMIL, pack
from hnm.bags import Bags
from hnm.session import Session
from launch.distributed import World, gather_to_main, sum_over_ranks
from shards.plan import rows_of_rank


def score_slides(
    model: DSMIL, bags: Bags, slides: np.ndarray, session: Session
) -> tuple[torch.Tensor, np.ndarray | None]:
    """Score the embedded slides and all their patches. Every rank must call it.

    Args:
        model: the aggregator.
        bags: the features of exactly `slides`.
        slides: (s,) increasing slide numbers.

    Returns:
        (2, s) logits of the slides on every rank (see `slide_logits`), and on rank 0 the (N,) float32 patch scores, NaN
        where a patch was not scored (None on other ranks).
    """
    world, study = session.world, session.study
    logits = slide_logits(model, bags, slides, world)
    shares = [rows_of_rank(bags.num_rows, rank, world.size) for rank in range(world.size)]
    part = score_patches(model, bags, shares[world.rank].start, shares[world.rank].stop)
    sizes = [share.stop - share.start for share in shares]
    return logits, gather_scores(part, sizes, study.patches_of(slides), study.cohort.num_patches, world)


@torch.no_grad()
def slide_logits(model: DSMIL, bags: Bags, slides: np.ndarray, world: World) -> torch.Tensor:
    """Return (2, s): the bag logit and the highest instance logit of each slide. Every rank must call it."""
    logits = torch.zeros(2, len(slides))
    share = rows_of_rank(len(slides), world.rank, world.size)
    for i in range(*share.indices(len(slides))):
        prediction = model(pack([bags.bag(slides[i])]))
        logits[:, i] = torch.stack([prediction.bag_logits[0], prediction.instance_logits.max()])
    return sum_over_ranks(logits, world)


def slide_scores(logits: torch.Tensor) -> np.ndarray:
    """Return (s,) float64 slide probabilities: the mean of the two streams' sigmoids (DSMIL, eq. 7)."""
    return logits.double().sigmoid().mean(0).numpy()


@torch.no_grad()
def score_patches(model: DSMIL, bags: Bags, start: int, stop: int, chunk: int = 65536) -> np.ndarray:
    """Return the instance scores (sigmoid of the instance logit) of feature rows [start, stop), float32."""
    scores = np.empty(stop - start, np.float32)
    for row in range(start, stop, chunk):
        rows = bags.rows(row, min(row + chunk, stop))
        scores[row - start : row - start + len(rows)] = model.score(rows).sigmoid().cpu().numpy()
    return scores


def gather_scores(part: np.ndarray, sizes: list[int], ids: np.ndarray, num_patches: int, world: World) -> np.ndarray | None:
    """Return on rank 0 the (N,) float32 scores, NaN where a patch was not scored; None elsewhere. Every rank must call it.

    Args:
        part: (sizes[rank],) float32 scores of this rank's rows.
        sizes: rows of every rank.
        ids: (sum(sizes),) patch ids of all rows in rank order.
    """
    gathered = np.empty(sum(sizes), np.float32) if world.is_main else None
    gather_to_main(part, sizes, gathered, world)
    if gathered is None:
        return None
    scores = np.full(num_patches, np.nan, np.float32)
    scores[ids] = gathered
    return scores
