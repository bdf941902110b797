"""shards.reading.source: over ranks, workers and resume points, every planned patch once and in order."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import webdataset as wds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.cohort.cohort import Cohort
from shards.reading import source
from shards.reading.plan import plan_epoch, plan_mixed_epoch
from shards.reading.reader import PatchReader, ReaderConfig
from shards.reading.source import PlannedBatch, PlanSource

MakeCohort = Callable[..., Cohort]
IdsOf = Callable[[torch.Tensor], list[int]]


class Worker:
    """What torch's get_worker_info tells a loader worker."""

    def __init__(self, id: int, num_workers: int) -> None:
        self.id = id
        self.num_workers = num_workers


def in_turn(plan_source: PlanSource, num_workers: int, monkeypatch: pytest.MonkeyPatch) -> list[PlannedBatch]:
    """Take batches as torch's DataLoader does: one of each worker in turn, until all are empty."""
    streams = []
    for worker in range(num_workers):
        monkeypatch.setattr(source, "get_worker_info", lambda worker=worker: Worker(worker, num_workers))
        streams.append(list(plan_source()))
    longest = max(len(stream) for stream in streams)
    return [stream[turn] for turn in range(longest) for stream in streams if turn < len(stream)]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_ids=st.integers(1, 21),
    batch_size=st.integers(1, 8),
    world_size=st.integers(1, 5),
    num_workers=st.integers(1, 6),
    stop=st.integers(0, 30),
    seed=st.integers(0, 9),
)
def test_no_patch_is_lost_or_repeated_by_ranks_workers_and_resumes(
    cohort: Cohort, num_ids: int, batch_size: int, world_size: int, num_workers: int, stop: int, seed: int
) -> None:
    plan = plan_epoch(np.arange(num_ids), batch_size, np.random.default_rng(seed))
    stop = min(stop, len(plan))
    seen: list[list[int]] = [[] for _ in plan]
    with pytest.MonkeyPatch.context() as patch, PatchReader(cohort, ReaderConfig(threads=1)) as reader:
        for rank in range(world_size):
            before = in_turn(PlanSource(reader, plan[:stop], rank, world_size), num_workers, patch)
            after = in_turn(PlanSource(reader, plan, rank, world_size, start_step=stop), num_workers % 3 + 1, patch)
            assert [batch.step for batch in before + after] == list(range(len(plan)))
            for batch in before + after:
                seen[batch.step] += batch.ids.tolist()
    assert seen == [row[row >= 0].tolist() for row in plan]


@pytest.fixture
def cohort(make_cohort: MakeCohort) -> Cohort:
    return make_cohort()


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_as_the_source_of_a_webloader(cohort: Cohort, ids_of: IdsOf, num_workers: int) -> None:
    generator = np.random.default_rng(0)
    plan = plan_mixed_epoch(np.arange(12), np.arange(12, 21), 5, 0.4, None, generator)
    for rank in range(2):
        pipeline = wds.DataPipeline(PlanSource(PatchReader(cohort, ReaderConfig()), plan, rank, 2, start_step=1))
        batches = list(wds.WebLoader(pipeline, batch_size=None, num_workers=num_workers))
        assert [batch.step for batch in batches] == list(range(1, len(plan)))
        for batch in batches:
            assert batch.ids.tolist() == source.ids_of_rank(plan[batch.step], rank, 2).tolist()
            assert ids_of(batch.images) == batch.ids.tolist()


def test_broken_patches_are_told_by_worker_processes(cohort: Cohort, damage: Callable[..., None]) -> None:
    damage(cohort, 3)
    reader = PatchReader(cohort, ReaderConfig(broken="skip", max_broken_share=0.1))
    pipeline = wds.DataPipeline(PlanSource(reader, np.array([[1, 2, 3], [3, 4, -1], [5, 6, 7]])))
    loader = wds.WebLoader(pipeline, batch_size=None, num_workers=2)
    assert [batch.broken.tolist() for batch in loader] == [[3], [3], []]
