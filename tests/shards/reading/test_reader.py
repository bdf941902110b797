"""shards.reading.reader: the right pixels in the right order, read ahead, and errors that name the patch."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.reading.plan import embedding_batches
from shards.reading.reader import PatchReader, ReaderConfig

MakeCohort = Callable[..., Cohort]
IdsOf = Callable[[torch.Tensor], list[int]]
Damage = Callable[[Cohort, int], None]


def test_reads_any_order_with_repeats(make_cohort: MakeCohort, ids_of: IdsOf) -> None:
    ids = np.array([20, 0, 7, 7, 3, 19, 11])
    images = PatchReader(make_cohort(), ReaderConfig()).read(ids)
    assert images.shape == (7, 3, 16, 16)
    assert ids_of(images) == ids.tolist()


def test_an_empty_share_is_an_empty_batch(make_cohort: MakeCohort) -> None:
    images = PatchReader(make_cohort(), ReaderConfig()).read(np.empty(0, dtype=np.int64))
    assert images.shape == (0, 3, 16, 16)


def test_few_handles_and_many_threads(make_cohort: MakeCohort, ids_of: IdsOf) -> None:
    cohort = make_cohort(counts=(8,) * 12, slides=tuple(range(12)))
    rows = [np.random.default_rng(n).permutation(96)[:10] for n in range(60)]
    with PatchReader(cohort, ReaderConfig(threads=4, prefetch_batches=7, max_open_files=2)) as reader:
        batches = list(reader.batches(rows))
        # of these shards alone: what other tests of this process hold open does not count
        held = [os.path.realpath(f"/proc/self/fd/{handle}") for handle in os.listdir("/proc/self/fd")]
        assert 1 <= sum(path.startswith(f"{cohort.root}/shards") for path in held) <= 2
    assert [ids.tolist() for ids, _ in batches] == [row.tolist() for row in rows]
    assert all(ids_of(images) == ids.tolist() for ids, images in batches)


def test_sequential_pass_over_whole_shards(make_cohort: MakeCohort, ids_of: IdsOf) -> None:
    with PatchReader(make_cohort(), ReaderConfig()) as reader:
        for world_size in (1, 2, 4):
            seen = []
            for rank in range(world_size):
                runs = embedding_batches(21, 4, rank, world_size)
                batches = reader.batches(np.arange(start, stop) for start, stop in runs)
                seen += [ids_of(images) for _, images in batches]
            assert seen == [list(range(start, min(start + 4, 21))) for start in range(0, 21, 4)]


def test_batches_that_are_kept_are_not_written_over(make_cohort: MakeCohort, ids_of: IdsOf) -> None:
    rows = [np.array([n % 21, (n + 5) % 21]) for n in range(40)]
    config = ReaderConfig(threads=3, prefetch_batches=2)
    kept = [(ids, images[1]) for ids, images in PatchReader(make_cohort(), config).batches(rows)]
    assert ids_of(torch.stack([image for _, image in kept])) == [ids[1] for ids, _ in kept]


def test_stopping_early_leaves_no_thread(make_cohort: MakeCohort) -> None:
    batches = PatchReader(make_cohort(), ReaderConfig()).batches([np.arange(5)] * 50)
    next(batches)
    assert any(thread.name.startswith("patch-reader") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("patch-reader") for thread in threading.enumerate())


def test_reads_only_what_is_prefetched(make_cohort: MakeCohort) -> None:
    taken = []

    def rows() -> Iterator[np.ndarray]:
        for n in range(50):
            taken.append(n)
            yield np.array([n % 21])

    batches = PatchReader(make_cohort(), ReaderConfig(prefetch_batches=3)).batches(rows())
    next(batches)
    assert len(taken) == 4
    batches.close()


def test_a_jpeg_that_does_not_decode(make_cohort: MakeCohort, damage: Damage) -> None:
    cohort = make_cohort()
    damage(cohort, 14)
    message = r"slide1-0002\.tar: patch 14 of slide 'slide1' \(offset \d+, \d+ bytes\) cannot be read: .*hnm tile"
    with pytest.raises(InputError, match=message):
        PatchReader(cohort, ReaderConfig()).read(np.array([3, 14, 13]))


def test_a_shard_cut_short(make_cohort: MakeCohort, ids_of: IdsOf) -> None:
    cohort = make_cohort()
    end = int(cohort.patches.offset[10]) + 20
    os.truncate(cohort.shard_path(1), end)
    reader = PatchReader(cohort, ReaderConfig())
    assert ids_of(reader.read(np.arange(10))) == list(range(10))
    with pytest.raises(InputError, match=f"patch 10 .*cut short at byte {end}"):
        reader.read(np.arange(12))


def test_a_missing_shard(make_cohort: MakeCohort) -> None:
    cohort = make_cohort()
    cohort.shard_path(1).unlink()
    with pytest.raises(InputError, match=r"slide0-0001\.tar: patch 7 .*the shard is missing"):
        PatchReader(cohort, ReaderConfig()).read(np.array([1, 7]))


def test_a_patch_of_another_size(make_cohort: MakeCohort) -> None:
    cohort, other = make_cohort(), make_cohort(px=8, name="other")
    os.replace(other.shard_path(1), cohort.shard_path(1))
    patches = cohort.patches.take(np.arange(21))
    for column in ("offset", "nbytes"):
        getattr(patches, column)[7:12] = getattr(other.patches, column)[7:12]
    with pytest.raises(InputError, match="8 x 8 pixels, the cohort's patches are 16 x 16"):
        PatchReader(replace(cohort, patches=patches), ReaderConfig()).read(np.array([0, 7]))


def test_an_error_comes_at_its_batch_and_stops_the_threads(make_cohort: MakeCohort, damage: Damage) -> None:
    cohort = make_cohort()
    damage(cohort, 5)
    batches = PatchReader(cohort, ReaderConfig()).batches([np.array([0]), np.array([1]), np.array([5]), np.array([2])])
    assert [next(batches)[0].item(), next(batches)[0].item()] == [0, 1]
    with pytest.raises(InputError, match="patch 5 "):
        next(batches)
    assert not any(thread.name.startswith("patch-reader") for thread in threading.enumerate())


def test_after_a_fork_the_child_opens_its_own_files(make_cohort: MakeCohort, ids_of: IdsOf) -> None:
    reader = PatchReader(make_cohort(), ReaderConfig())
    reader.read(np.arange(21))
    child = os.fork()
    if child == 0:
        os._exit(0 if ids_of(reader.read(np.array([4, 20]))) == [4, 20] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
