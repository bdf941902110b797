"""An epoch is an array: patch ids by step and column, the same on any number of ranks.

    weights (N,) ──weighted_sample──▶ ids (n,) ──plan_epoch, plan_mixed_epoch──▶ plan (steps, batch) of ids, -1 = padding
                                                                                  │
                        rank r reads ids_of_rank(plan[step], r, world_size) ◀─────┘

Pure functions of arrays and an explicit generator: every rank computes the whole plan alone and takes its columns, so
all ranks have the same number of steps, and resuming at a step is slicing. Nothing here loops over patches in Python.
Ids are int32 where `id_type` allows it, and a plan has the type of the ids it is made of.
"""

import numpy as np

PADDING = -1

# Random keys are drawn this many at a time, and rows are moved so: 4 MB of temporary arrays instead of arrays of N.
_CHUNK = 1 << 20
_LARGEST_KEY = np.finfo(np.float32).max


def id_type(num_patches: int) -> type[np.int32] | type[np.int64]:
    """Return the smallest type of the ids of so many patches: half the memory of a plan, up to 2 x 10^9."""
    return np.int32 if num_patches <= np.iinfo(np.int32).max else np.int64


def rows_of_rank(batch_size: int, rank: int, world_size: int) -> slice:
    """Return a rank's share of the `batch_size` columns of a global batch.

    Args:
        batch_size: how many columns there are to share.
        rank: this rank, 0 to world_size - 1.
        world_size: number of ranks.

    Returns:
        A contiguous slice; sizes differ by at most one, the larger ones come first.
    """
    size, extra = divmod(batch_size, world_size)
    start = rank * size + min(rank, extra)
    return slice(start, start + size + (rank < extra))


def ids_of_rank(row: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """Return a rank's patch ids of one plan row; the padding is dropped first, or the last ranks would get all of it.

    Args:
        row: (batch,) one row of a plan, -1 = padding.
        rank: this rank.
        world_size: number of ranks.

    Returns:
        (n,) ids; n differs by at most one between ranks, and is 0 only where a row has fewer ids than ranks.
    """
    ids = row[row != PADDING]
    return ids[rows_of_rank(len(ids), rank, world_size)]


def cut_epoch(ids: np.ndarray, batch_size: int) -> np.ndarray:
    """Cut ids, in their order, into the fewest steps, spread evenly over them.

    Evenly, because a last batch of a few patches has a contrastive loss of another scale, and none for some ranks.

    Args:
        ids: (n,) patch ids.
        batch_size: most ids per step.

    Returns:
        (ceil(n / batch_size), batch_size) of the ids' type; every id once; rows differ by at most one id, -1 fills their ends.
    """
    plan = _unspread(ids, batch_size)
    return _spread(plan, len(ids))


def plan_epoch(ids: np.ndarray, batch_size: int, generator: np.random.Generator) -> np.ndarray:
    """Plan one pass over `ids` in random order; beside the ids memory holds the plan alone.

    Args:
        ids: (n,) patch ids.
        batch_size: global batch size.
        generator: source of the order.

    Returns:
        (steps, batch_size) of the ids' type, cut as by `cut_epoch`.
    """
    plan = _unspread(ids, batch_size)
    generator.shuffle(plan.reshape(-1)[: len(ids)])
    return _spread(plan, len(ids))


def _unspread(ids: np.ndarray, batch_size: int) -> np.ndarray:
    """Return an array of the plan's shape (steps, batch) whose first n numbers are the ids, in their order."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: it must be at least 1")
    plan = np.empty((-(-len(ids) // batch_size), batch_size), ids.dtype)
    plan.reshape(-1)[: len(ids)] = ids
    return plan


def _spread(plan: np.ndarray, num_ids: int) -> np.ndarray:
    """Move the first `num_ids` numbers of (steps, batch) into even rows, from the last row on, and return it."""
    steps, batch_size = plan.shape
    size, longer = divmod(num_ids, max(steps, 1))
    at_once = max(1, _CHUNK // batch_size)
    for first_row, stop_row, width in ((longer, steps, size), (0, longer, size + 1)):  # the first `longer` have one more
        for stop in range(stop_row, first_row, -at_once):
            start = max(first_row, stop - at_once)
            begin = start * size + min(start, longer)
            rows = plan.reshape(-1)[begin : begin + (stop - start) * width].copy()
            plan[start:stop, :width] = rows.reshape(-1, width)
            plan[start:stop, width:] = PADDING
    return plan


def plan_mixed_epoch(
    negatives: np.ndarray,
    positives: np.ndarray,
    batch_size: int,
    positive_share: float,
    steps: int | None,
    generator: np.random.Generator,
) -> np.ndarray:
    """Plan batches that hold a fixed share of positives, the rest negatives.

    A row holds round(batch_size * positive_share) positives; a smaller pool goes in whole, once, and negatives take
    the freed columns. Positives come from repeated permutations: over the epoch their counts differ by at most one, and
    no id is twice in a row. Layout: with k positives among a row's m ids, column c is a positive where
    floor((c + 1) k / m) > floor(c k / m), so any L columns side by side hold floor or ceil of L k / m positives: every
    rank gets the same mix.

    Args:
        negatives: (n,) distinct patch ids.
        positives: (p,) of the same type, distinct patch ids; may be empty: rows then hold only negatives.
        batch_size: global batch size.
        positive_share: share of positives in a batch, 0 to 1.
        steps: number of rows; None for one pass over the negatives (each exactly once). Otherwise the negatives, too,
            come from repeated permutations and fill exactly that many rows.
        generator: source of the draws.

    Returns:
        (steps, batch_size) of the negatives' type, -1 fills the ends of rows.

    Raises:
        ValueError: positive_share leaves no room for the negatives that a pass has to go over.
    """
    num_positives = min(round(batch_size * positive_share), len(positives))
    room = batch_size - num_positives
    if steps is None and room < 1:
        raise ValueError(f"positive_share {positive_share} leaves no negatives in a batch of {batch_size}: lower it")
    if steps is None:
        negative_rows = plan_epoch(negatives, room, generator)
    else:
        negative_rows = _draw_rows(negatives, steps, room, generator)
    positive_rows = _draw_rows(positives, len(negative_rows), num_positives, generator)
    return _interleave(positive_rows, negative_rows, batch_size)


def weighted_sample(
    weights: np.ndarray, size: int, generator: np.random.Generator, labels: np.ndarray | None = None
) -> np.ndarray:
    """Draw ids without replacement, with chances proportional to their weights (successive sampling).

    Exponential keys (Efraimidis & Spirakis 2006): the `size` smallest E_i / w_i, E_i ~ Exp(1), are such a sample; for
    equal weights it is a uniform draw. Only their ratios count: weights may have any sum and any maximum. Equal keys are
    taken in id order: the set is the same on every machine. Of one slide: its slice of the weights, and its first id added.
    The arrays may be memory maps: they are read once, in pieces, and what is kept are about `size` keys and ids.

    Args:
        weights: (N,) any float, integer or bool type, not negative; ids of weight 0 are never drawn.
        size: how many ids to draw.
        generator: source of the draws.
        labels: (N,) integers; ids whose label is not 0 are never drawn either. None: all may be.

    Returns:
        (size,) int64 ids, ascending.

    Raises:
        ValueError: a weight is negative, not finite or outside of what float32 holds, or fewer than `size` are above 0.
    """
    lowest, num_drawable = _Lowest(size), 0
    for start in range(0, len(weights), _CHUNK):
        given = weights[start : start + _CHUNK]
        if labels is not None:
            given = np.where(labels[start : start + _CHUNK] == 0, given, given.dtype.type(0))
        with np.errstate(over="ignore"):  # told below
            chunk = given.astype(np.float32)
        if np.count_nonzero(chunk) != np.count_nonzero(given):
            raise ValueError("sampling weights below 1e-45 count as 0 in float32: scale them, for only their ratios count")
        num_drawable += int(np.count_nonzero(chunk))
        lowest.add(start, _exponential_keys(chunk, generator))
    if size > num_drawable:
        raise ValueError(f"{size} ids asked for, only {num_drawable} have a weight above 0: ask for at most that many")
    return lowest.cut()


class _Lowest:
    """The `size` lowest finite keys of those seen so far, equal ones in the order of their ids."""

    def __init__(self, size: int) -> None:
        self.size, self.bound = size, np.float32(np.inf)  # keys below it may be among them
        self.keys, self.ids = np.empty(0, np.float32), np.empty(0, np.int64)

    def add(self, first_id: int, keys: np.ndarray) -> None:
        """Look at the keys of the next ids, (n,) float32."""
        places = np.flatnonzero(keys < self.bound)
        self.keys = np.concatenate([self.keys, keys[places]])
        self.ids = np.concatenate([self.ids, first_id + places])
        if len(self.keys) > self.size + max(self.size, _CHUNK) // 4:
            self.cut()

    def cut(self) -> np.ndarray:
        """Forget all but the lowest, and return their ids, ascending."""
        if self.size == 0:
            self.keys, self.ids, self.bound = self.keys[:0], self.ids[:0], np.float32(0)
        if len(self.keys) > self.size:
            self.bound = np.partition(self.keys, self.size - 1)[self.size - 1]
            chosen = self.keys < self.bound
            ties = np.flatnonzero(self.keys == self.bound)
            chosen[ties[: self.size - np.count_nonzero(chosen)]] = True
            self.keys, self.ids = self.keys[chosen], self.ids[chosen]
        return self.ids


def _exponential_keys(weights: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return (n,) float32 keys, infinite where the weight is 0 and finite elsewhere."""
    drawable = weights > 0
    if not np.isfinite(weights).all() or weights.min(initial=0) < 0:
        raise ValueError("sampling weights must be finite (below 3e38) and not negative")
    keys = np.full(len(weights), np.inf, dtype=np.float32)
    draws = generator.standard_exponential(len(weights), dtype=np.float32)
    with np.errstate(over="ignore"):
        np.divide(draws, weights, out=keys, where=drawable)
    return np.minimum(keys, _LARGEST_KEY, out=keys, where=drawable)


def _draw_rows(pool: np.ndarray, steps: int, per_row: int, generator: np.random.Generator) -> np.ndarray:
    """Return (steps, min(per_row, len(pool))) of the pool's type from repeated permutations of it, no id twice in a row."""
    size = len(pool)
    if per_row >= size:
        return generator.permuted(np.tile(pool, (steps, 1)), axis=1)
    num_passes = -(-steps * per_row // size)
    order = np.empty((num_passes, size), dtype=id_type(size))
    for number in range(num_passes):
        order[number] = np.arange(size, dtype=order.dtype)
        generator.shuffle(order[number])
        begun = number * size % per_row if per_row else 0
        if begun:  # the previous pass ended inside a row: this one must not repeat that row's ids
            order[number] = _move_back(order[number], order[number - 1, size - begun :], per_row - begun)
    return pool[order.reshape(-1)[: steps * per_row]].reshape(steps, per_row)


def _move_back(order: np.ndarray, taken: np.ndarray, count: int) -> np.ndarray:
    """Return permutation `order` (n,) with its first `count` entries that are not in `taken` moved to the front."""
    is_taken = np.zeros(len(order), dtype=bool)
    is_taken[taken] = True
    head = np.flatnonzero(~is_taken[order])[:count]
    return np.concatenate([order[head], np.delete(order, head)])


def _interleave(positive_rows: np.ndarray, negative_rows: np.ndarray, batch_size: int) -> np.ndarray:
    """Merge (steps, k) positives and (steps, room) negatives, -1 at their ends, into (steps, batch_size)."""
    steps, num_positives = positive_rows.shape
    plan = np.full((steps, batch_size), PADDING, dtype=negative_rows.dtype)
    num_negatives = np.count_nonzero(negative_rows != PADDING, axis=1)  # (steps,)
    for count in np.unique(num_negatives):  # two values at most: the rows of an even cut
        rows = np.flatnonzero(num_negatives == count)
        columns = np.arange(num_positives + count)
        quota = np.arange(len(columns) + 1) * num_positives // max(len(columns), 1)
        is_positive = quota[1:] > quota[:-1]
        plan[np.ix_(rows, columns[is_positive])] = positive_rows[rows]
        plan[np.ix_(rows, columns[~is_positive])] = negative_rows[rows, :count]
    return plan


def embedding_batches(num_patches: int, batch_size: int, rank: int, world_size: int) -> list[tuple[int, int]]:
    """Return a rank's batches of a pass over all patches in id order, which reads whole shards one after the other.

    The batches lie on one grid whatever the number of ranks, so a patch is computed beside the same others and its
    features are the same to the bit; a rank takes a run of whole batches, so ranks differ by at most one batch.

    Args:
        num_patches: N.
        batch_size: patches per batch; the last one may have fewer.
        rank: this rank.
        world_size: number of ranks.

    Returns:
        (start, stop) patch ids of each batch.
    """
    starts = range(0, num_patches, batch_size)
    mine = starts[rows_of_rank(len(starts), rank, world_size)]
    return [(start, min(start + batch_size, num_patches)) for start in mine]
