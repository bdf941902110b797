"""shards.reading.broken: one rule for stand-ins, a limit, and every broken patch named and counted."""

import os
from collections.abc import Callable

import numpy as np
import pytest
import torch

from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.reading.reader import PatchReader, ReaderConfig

MakeCohort = Callable[..., Cohort]
IdsOf = Callable[[torch.Tensor], list[int]]
Damage = Callable[[Cohort, int], None]

SKIP = ReaderConfig(broken="skip", max_broken_share=0.5)
COUNTS, SLIDES = (4, 3, 5, 4), (0, 0, 1, 2)  # slide 0: patches 0 to 6, slide 1: 7 to 11, slide 2: 12 to 15


@pytest.fixture
def cohort(make_cohort: MakeCohort) -> Cohort:
    return make_cohort(COUNTS, SLIDES)


def test_the_next_patch_of_the_slide_stands_in(cohort: Cohort, damage: Damage, ids_of: IdsOf) -> None:
    for patch in (2, 3, 6, 10):
        damage(cohort, patch)
    with PatchReader(cohort, SKIP) as reader:
        assert ids_of(reader.read(np.arange(16))) == [0, 1, 4, 4, 4, 5, 0, 7, 8, 9, 11, 11, 12, 13, 14, 15]
        assert sorted(reader.broken.problem_of) == [2, 3, 6, 10]


def test_the_stand_in_does_not_depend_on_what_was_read_before(cohort: Cohort, damage: Damage, ids_of: IdsOf) -> None:
    for patch in (2, 3, 6):
        damage(cohort, patch)
    for order in ([2, 3, 6], [6, 3, 2], [3, 2, 2, 6]):
        with PatchReader(cohort, SKIP) as reader:
            stand_in_of = {2: 4, 3: 4, 6: 0}
            assert [ids_of(reader.read(np.array([i])))[0] for i in order] == [stand_in_of[i] for i in order]


def test_a_missing_shard_and_a_short_one(cohort: Cohort, ids_of: IdsOf) -> None:
    cohort.shard_path(0).unlink()
    os.truncate(cohort.shard_path(2), int(cohort.patches.offset[10]))
    with PatchReader(cohort, SKIP) as reader:
        assert ids_of(reader.read(np.array([0, 3, 5, 9, 10, 11]))) == [4, 4, 5, 9, 7, 7]
        assert reader.broken.problem_of[0] == "the shard is missing"
        assert "cut short at byte" in reader.broken.problem_of[10]


def test_a_slide_of_the_same_group_stands_in_for_a_lost_one(cohort: Cohort, ids_of: IdsOf) -> None:
    cohort.shard_path(2).unlink()
    with PatchReader(cohort, SKIP, slide_groups=np.array([1, 1, 0])) as reader:
        assert ids_of(reader.read(np.array([7, 11]))) == [0, 0]
    with PatchReader(cohort, SKIP, slide_groups=np.array([0, 1, 1])) as reader:
        assert ids_of(reader.read(np.array([11, 12]))) == [12, 12]


def test_without_groups_a_lost_slide_is_an_error(cohort: Cohort) -> None:
    cohort.shard_path(2).unlink()
    with PatchReader(cohort, SKIP) as reader, pytest.raises(InputError, match="slide 'slide1' has no patch that can"):
        reader.read(np.array([8]))


def test_more_than_the_allowed_share_fails(cohort: Cohort, damage: Damage) -> None:
    for patch in (2, 3):
        damage(cohort, patch)
    with PatchReader(cohort, ReaderConfig(broken="skip", max_broken_share=0.1)) as reader:  # 1.6 patches
        reader.read(np.array([1, 8]))
        with pytest.raises(InputError, match=r"2 of 16 patches .*max_broken_share \(0.1\) .* patch 3 of "):
            reader.read(np.array([2, 8]))


def test_the_first_is_logged(cohort: Cohort, damage: Damage, caplog: pytest.LogCaptureFixture) -> None:
    for patch in (2, 3):
        damage(cohort, patch)
    with PatchReader(cohort, SKIP) as reader:
        list(reader.batches([np.array([2, 3]), np.array([2, 1])]))
    assert [record.message.split(" (")[0][-15:] for record in caplog.records] == ["patch 2 of slide 'slide0'"[-15:]]


def test_the_size_comes_from_the_first_readable_patch_and_counts_none(cohort: Cohort, damage: Damage) -> None:
    damage(cohort, 0)
    with PatchReader(cohort, ReaderConfig()) as reader:
        assert reader.image_shape == (16, 16)
        assert len(reader.broken.ids) == 0
    for patch in range(cohort.num_patches):
        damage(cohort, patch)
    with PatchReader(cohort, SKIP) as reader, pytest.raises(InputError, match=r"none of its patches can be read"):
        _ = reader.image_shape
