"""Score: slides by both streams of the aggregator, patches by its instance stream, each rank its own range of ids."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from hnm.aggregator.aggregators import Aggregator, Correlated, Ensemble
from hnm.aggregator.bags import Bags
from hnm.aggregator.running_mean import RunningMean
from hnm.engine.ranks import World, gather_to_main, sum_over_ranks
from hnm.run.session import Session
from hnm.run.slide_rows import Rows
from shards.reading.plan import rows_of_rank

# Ranks wait for each other when they ask whether to stop, so they do it now and then.
SLIDES_BETWEEN_ASKS, PATCHES_BETWEEN_ASKS = 32, 1 << 20


class Part(NamedTuple):
    """One rank's patch scores.

    Attributes:
        scores: (n,) float32 of the patch ids `ids`, NaN where a patch was not scored.
        bounds: (ranks + 1,) int64, where the ranks' ranges of ids begin, and N; the same on all ranks.
        ids: this rank's range of ids.
    """

    scores: np.ndarray
    bounds: np.ndarray
    ids: slice


def score_slides(
    model: Aggregator, bags: Bags, slides: np.ndarray, session: Session, rows: Rows | None = None
) -> tuple[torch.Tensor, Part]:
    """Score the embedded slides and all their patches. Every rank must call it.

    Args:
        model: the aggregator.
        bags: the features of exactly `slides`.
        slides: (s,) increasing slide numbers.
        rows: the patches that `bags` has of them; None: all.

    Returns:
        (2, s) logits of the slides on every rank (see `slide_logits`), and this rank's part of the patch scores.

    Raises:
        Preempted: a rank was asked to stop; nothing is kept, the scores are computed again.
    """
    world, study = session.world, session.study
    logits = _logits_until_stopped(model, bags, slides, session)
    rows = study.rows_of(slides) if rows is None else rows
    bounds = bounds_of_ranks(rows, study.cohort.num_patches, world.size)
    ids = slice(int(bounds[world.rank]), int(bounds[world.rank + 1]))
    scores = np.full(ids.stop - ids.start, np.nan, np.float32)
    for start, stop, found in _scores_until_stopped(model, bags, session):
        scores[rows.ids(start, stop) - ids.start] = found
    return logits, Part(scores, bounds, ids)


def _logits_until_stopped(model: Aggregator, bags: Bags, slides: np.ndarray, session: Session) -> torch.Tensor:
    """Return what `slide_logits` does, some slides at a time, and ask in between whether to stop. Every rank must call it."""
    step = SLIDES_BETWEEN_ASKS * session.world.size
    starts = range(0, len(slides), step)
    logits = []
    for start in session.journal.progress(starts, "score slides", len(starts)):
        logits.append(slide_logits(model, bags, slides[start : start + step], session.world))
        session.stop_if_asked()
    return torch.cat(logits, dim=1)


def _scores_until_stopped(model: Aggregator, bags: Bags, session: Session) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (start, stop, scores) of this rank's rows; all ranks ask equally often whether to stop. Every rank must call it."""
    world = session.world
    rows = rows_of_rank(bags.num_rows, world.rank, world.size)
    most = rows_of_rank(bags.num_rows, 0, world.size).stop  # rank 0 has the most
    step = PATCHES_BETWEEN_ASKS
    starts = range(rows.start, rows.start + most, step)
    for start in session.journal.progress(starts, "score patches", len(starts)):
        first, stop = min(start, rows.stop), min(start + step, rows.stop)
        yield first, stop, score_patches(model, bags, first, stop)
        session.stop_if_asked()


@torch.no_grad()
def slide_logits(model: Aggregator, bags: Bags, slides: np.ndarray, world: World) -> torch.Tensor:
    """Return (2, s): both streams' logits of each slide (see `predict_bag`). Every rank must call it."""
    logits = torch.zeros(2, len(slides))
    share = rows_of_rank(len(slides), world.rank, world.size)
    for i in range(*share.indices(len(slides))):
        logits[:, i] = predict_bag(model, bags, *bags.rows_of_slide[slides[i]])
    return sum_over_ranks(logits, world)


@torch.no_grad()
def predict_bag(model: Aggregator, bags: Bags, start: int, stop: int, chunk: int = 8192) -> torch.Tensor:
    """Return (2,): the bag logit and the highest instance logit of feature rows [start, stop), one bag.

    The rows are read twice, chunk by chunk: first for the critical patch, then for the attention. Memory holds one chunk,
    however large the slide. An aggregator of one stream gives its bag logit twice: it is all that it says of a slide. An
    ensemble gives the mean of what its members give. Where patches look at each other, what the others must know of each is
    held of all of them (see there).
    """
    if isinstance(model, Ensemble):
        members = [predict_bag(member, bags, start, stop, chunk) for member in model.members]  # type: ignore[arg-type]
        return torch.stack(members).mean(0)
    begins = range(start, stop, chunk)

    def read() -> Iterator[torch.Tensor]:
        return (bags.rows(begin, min(begin + chunk, stop)) for begin in begins)

    if isinstance(model, Correlated):
        return model.bag_logit(read).expand(2)
    highest, critical = torch.tensor(-torch.inf), torch.empty(0)
    for rows in read():
        logits = model.score(rows)
        best = int(logits.argmax())
        if logits[best] > highest:  # the first of equals
            highest, critical = logits[best], rows[best : best + 1].clone()
    if model.bag_is_highest:
        return torch.stack([highest, highest])
    pool = RunningMean()
    for rows in read():
        pool.add(*model.weigh(rows, critical))
    bag = model.classify(pool.mean()[None])[0]
    return torch.stack([bag, highest if model.two_streams else bag])


def slide_scores(logits: torch.Tensor) -> np.ndarray:
    """Return (s,) float64 slide probabilities: the mean of the two streams' sigmoids (DSMIL, eq. 7).

    Where the aggregator has one stream, both logits are the same (`predict_bag`), and it is its sigmoid.
    """
    return logits.double().sigmoid().mean(0).numpy()


@torch.no_grad()
def score_patches(model: Aggregator, bags: Bags, start: int, stop: int, chunk: int = 65536) -> np.ndarray:
    """Return the instance scores (sigmoid of the instance logit) of feature rows [start, stop), float32."""
    scores = np.empty(stop - start, np.float32)
    for row in range(start, stop, chunk):
        rows = bags.rows(row, min(row + chunk, stop))
        scores[row - start : row - start + len(rows)] = model.score(rows).sigmoid().cpu().numpy()
    return scores


def bounds_of_ranks(rows: Rows, num_patches: int, num_ranks: int) -> np.ndarray:
    """Return (ranks + 1,) int64: rank r answers for the patch ids [bounds[r], bounds[r + 1]), all N together.

    The ranks' scored patches, those of `rows`, differ in number by at most one.
    """
    starts = [rows_of_rank(rows.num_rows, rank, num_ranks).start for rank in range(1, num_ranks)]
    inner = [int(rows.ids(start, start + 1)[0]) if start < rows.num_rows else num_patches for start in starts]
    return np.array([0, *inner, num_patches], np.int64)


def gather_scores(part: Part, out: np.ndarray | None, world: World) -> None:
    """Collect the ranks' scores in `out` on rank 0, (N,) float32; None elsewhere. Every rank must call it."""
    gather_to_main(part.scores, np.diff(part.bounds).tolist(), out, world)
