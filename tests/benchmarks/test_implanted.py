"""Implanted bags: halves of negative images, tumour of one positive image of the same block, and nothing else."""

import numpy as np
import pytest

from benchmarks.implanted import Implanted, implant

NUM_IMAGES, PATCHES = 24, 41
LABELS = np.arange(NUM_IMAGES) % 2
BOUNDS = PATCHES * np.arange(NUM_IMAGES + 1)
TRUTH = ((np.arange(PATCHES * NUM_IMAGES) % 3 == 0) & (np.repeat(LABELS, PATCHES) == 1)).astype(np.int8)


def bags(seed: int, num_blocks: int = 4) -> Implanted:
    return implant([f"img{i}" for i in range(NUM_IMAGES)], BOUNDS, TRUTH, LABELS, 0.2, num_blocks, seed)


def test_a_positive_bag_is_a_negative_half_and_tumour_of_one_image_of_its_block() -> None:
    made = bags(seed=0)
    assert made.labels.tolist() == [0, 1] * 12
    image_of = [np.unique(np.searchsorted(BOUNDS, rows, side="right") - 1, return_counts=True) for rows in made.rows]
    blocks_of_image: dict[int, set[int]] = {}
    for bag, (images, counts) in enumerate(image_of):
        own = int(made.names[bag][3:-1])
        assert LABELS[own] == 0
        assert own in images
        assert len(np.unique(made.rows[bag])) == len(made.rows[bag])
        assert TRUTH[made.rows[bag]].sum() == (5 if made.labels[bag] else 0)  # 5 of 21 + 5: nearest to a fifth
        assert sorted(LABELS[images].tolist()) == [0, 1][: len(images)]
        assert len(images) == 1 + made.labels[bag]
        assert counts[images == own] == (21 if made.labels[bag] else 20)
        for image in images:
            blocks_of_image.setdefault(int(image), set()).add(int(made.blocks[bag]))
    assert all(len(blocks) == 1 for blocks in blocks_of_image.values())  # no nucleus leaves its block
    halves = [np.concatenate(made.rows[i : i + 2]) for i in range(0, 24, 2)]
    assert all(len(np.unique(half[TRUTH[half] == 0])) == PATCHES for half in halves)


def test_a_draw_is_its_seeds_and_a_block_without_a_positive_image_is_refused() -> None:
    first, again, other = bags(0), bags(0), bags(1)
    assert all((a == b).all() for a, b in zip(first.rows, again.rows, strict=True))
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(first.rows, other.rows, strict=True))
    with pytest.raises(ValueError, match="has no positive image"):
        bags(0, num_blocks=24)
