"""The cut of a ranking that is spread over ranks, found by counting: no rank ever holds the others' scores.

    float32 score ──▶ uint32 key, same order ──▶ 4 passes, a byte each, from the highest:
        256 counts of the keys that begin with the bytes found so far ── summed over ranks ──▶ the next byte

After four passes the key of the lowest score taken is known, with how many lie above it and how many equal it. Ranks own
increasing runs of patch ids, so ties are handed out by id: to the first rank that has some, then to the next.
"""

import numpy as np
import torch

from hnm.engine.ranks import World, sum_over_ranks
from hnm.mining.ranking import Cut, Ties, lowest_place

_CHUNK = 1 << 22  # keys looked at together: 16 MB, and 32 MB as the integers that bincount wants
_SIGN = 0x80000000


def keys_of(scores: np.ndarray) -> np.ndarray:
    """Return (n,) uint32 keys in the order of the (n,) float32 scores; equal scores have equal keys. NaN is not allowed."""
    keys = (scores + np.float32(0)).view(np.uint32)  # -0.0 + 0 is 0.0, which equals it but has other bits
    # The bits of positive floats ascend with their value, those of negative floats descend: flip the sign bit, or all.
    keys ^= (keys.view(np.int32) >> 31).view(np.uint32) | np.uint32(_SIGN)
    return keys


def score_of(key: int) -> float:
    """Return the score that has this key."""
    bits = key ^ _SIGN if key & _SIGN else key ^ 0xFFFFFFFF
    return float(np.uint32(bits).view(np.float32))


def count_digits(keys: np.ndarray, prefix: int, shift: int) -> np.ndarray:
    """Count the values of one byte of the keys that begin with the bytes above it.

    Args:
        keys: (n,) uint32.
        prefix: the bytes above, as a number.
        shift: how many bits lie below the byte: 24, 16, 8 or 0.

    Returns:
        (256,) int64.
    """
    counts = np.zeros(256, np.int64)
    for start in range(0, len(keys), _CHUNK):
        chunk = keys[start : start + _CHUNK]
        if shift < 24:
            chunk = chunk[chunk >> np.uint32(shift + 8) == prefix]
        counts += np.bincount((chunk >> np.uint32(shift)) & np.uint32(255), minlength=256)
    return counts


def find_digit(counts: np.ndarray, place: int) -> tuple[int, int]:
    """Return the digit of the key at `place`, in ascending order, and how many keys have a smaller one."""
    digit = int(np.searchsorted(np.cumsum(counts), place, side="right"))
    return digit, int(counts[:digit].sum())


def cut_over_ranks(pool: np.ndarray, share: float, ties: Ties, world: World) -> Cut:
    """Return this rank's part of the cut that takes the highest `share` of all ranks' pools. Every rank must call it.

    Args:
        pool: (n,) float32 scores of this rank, none NaN, possibly none at all; patch ids grow from rank to rank.
        share: in (0, 1].
        ties: see `hnm.mining.ranking.lowest_place`.
        world: the ranks.

    Returns:
        The threshold, the same on all ranks, and how many of this rank's scores equal to it are taken.
    """
    keys = keys_of(pool)
    counts = count_digits(keys, 0, 24)
    totals = sum_over_ranks(torch.from_numpy(counts), world).numpy()
    num_scores = int(totals.sum())
    if num_scores == 0:
        return Cut(np.inf, 0)
    place = lowest_place(share, num_scores, ties)
    prefix, below = find_digit(totals, place)
    for shift in (16, 8, 0):
        counts = count_digits(keys, prefix, shift)
        totals = sum_over_ranks(torch.from_numpy(counts), world).numpy()
        digit, smaller = find_digit(totals, place - below)
        prefix, below = prefix << 8 | digit, below + smaller
    own, equal = int(counts[prefix & 255]), int(totals[prefix & 255])
    # In the ranking the equal ones fill the places below .. below + equal - 1, and those from `place` on are taken.
    wanted = equal if ties == "keep" else below + equal - place
    return Cut(score_of(prefix), ties_of_rank(own, wanted, world))


def ties_of_rank(own: int, wanted: int, world: World) -> int:
    """Return how many of its `own` ties this rank takes of the `wanted` ones, lower ranks first. Every rank must call it."""
    num_ties = torch.zeros(world.size, dtype=torch.int64)
    num_ties[world.rank] = own
    earlier = int(sum_over_ranks(num_ties, world)[: world.rank].sum())
    return min(own, max(0, wanted - earlier))
