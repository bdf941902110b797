"""Everything that ranks exchange, on 1, 2 and 3 real gloo ranks; one start of the ranks serves all tests here."""

import json
from typing import Any

import numpy as np
import pytest
import torch

import hnm.engine.ranks as of_ranks
from hnm.engine.ranks import (
    World,
    barrier,
    broadcast_array,
    gather_rows,
    gather_to_main,
    main_says,
    max_over_ranks,
    single_world,
    sum_over_ranks,
)
from launch.process.distributed import join_world
from tests.ranks import on_ranks

DTYPES = (np.int8, np.int32, np.int64, np.float16, np.float32, np.float64)
SIZES_OF_WORLD = {
    1: [[9], [0]],
    2: [[0, 1000], [37, 0], [0, 0], [3, 4]],
    3: [[0, 500, 1], [7, 0, 0], [1, 0, 250], [4, 4, 4]],
}


def numbers(length: int, dtype: type) -> np.ndarray:
    return (np.arange(length) % 120 - 60).astype(dtype)


def exchange(world: World) -> dict[str, Any]:
    """Run every collective on this rank and return what came out."""
    whole = of_ranks.CHUNK_BYTES
    results: dict[str, Any] = {"world": (world.rank, world.size, world.is_main)}
    for chunk_bytes in (24, whole):
        of_ranks.CHUNK_BYTES = chunk_bytes
        for dtype in DTYPES:
            name = f"{np.dtype(dtype).name} in chunks of {chunk_bytes}"
            for length in (0, 1, 100):
                array = numbers(length, dtype) if world.is_main else None
                results[f"broadcast {length} {name}"] = broadcast_array(array, world)
            for sizes in SIZES_OF_WORLD[world.size]:
                results[f"gather {sizes} {name}"] = gathered(sizes, dtype, world)
    of_ranks.CHUNK_BYTES = whole
    results["main_says"] = [main_says(lambda: world.is_main, world), main_says(lambda: not world.is_main, world)]
    results["sum"] = sum_over_ranks(torch.tensor([1.0, float(world.rank)]), world)
    results["max"] = [max_over_ranks(5 * world.rank, world), max_over_ranks(-world.rank, world)]
    barrier(world)
    results["rows"] = rows_and_gradient(world)
    return results


def gathered(sizes: list[int], dtype: type, world: World) -> np.ndarray | None:
    start = sum(sizes[: world.rank])
    out: np.ndarray | None = np.full(sum(sizes), 99, dtype) if world.is_main else None
    gather_to_main(numbers(sum(sizes), dtype)[start : start + sizes[world.rank]], sizes, out, world)
    return out


def rows_and_gradient(world: World) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gather 5 rows, unequally shared, and let rank r's loss weigh row i with (r + 1) * (i + 1)."""
    sizes = {1: [5], 2: [5, 0], 3: [1, 0, 4]}[world.size]
    first = sum(sizes[: world.rank])
    mine = torch.arange(10.0).view(5, 2)[first : first + sizes[world.rank]].clone().requires_grad_()
    everyone = gather_rows(mine, sizes, world)
    weights = (world.rank + 1) * torch.arange(1.0, 6.0)
    (weights[:, None] * everyone).sum().backward()
    return everyone.detach(), mine.grad


@pytest.fixture(scope="module", params=[1, 2, 3])
def ranks(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What `exchange` returned on each rank."""
    return on_ranks(request.param, exchange)


def test_ranks_know_who_they_are(ranks: list[dict[str, Any]]) -> None:
    assert [result["world"] for result in ranks] == [(rank, len(ranks), rank == 0) for rank in range(len(ranks))]


def test_a_broadcast_array_is_the_same_everywhere(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        names = [name for name in result if name.startswith("broadcast")]
        assert len(names) == 2 * 3 * len(DTYPES)
        for name in names:
            length, dtype = name.split()[1:3]
            expected = numbers(int(length), np.dtype(dtype).type)
            assert result[name].dtype == expected.dtype
            np.testing.assert_array_equal(result[name], expected, err_msg=name)


def test_slices_however_uneven_arrive_on_rank_0_in_order(ranks: list[dict[str, Any]]) -> None:
    names = [name for name in ranks[0] if name.startswith("gather")]
    assert len(names) == 2 * len(DTYPES) * len(SIZES_OF_WORLD[len(ranks)])
    for name in names:
        sizes, dtype = json.loads(name[len("gather ") : name.index("]") + 1]), name[name.index("]") + 1 :].split()[0]
        np.testing.assert_array_equal(ranks[0][name], numbers(sum(sizes), np.dtype(dtype).type), err_msg=name)
        assert all(result[name] is None for result in ranks[1:])


def test_rank_0_decides(ranks: list[dict[str, Any]]) -> None:
    assert all(result["main_says"] == [True, False] for result in ranks)


def test_sums(ranks: list[dict[str, Any]]) -> None:
    expected = [float(len(ranks)), float(sum(range(len(ranks))))]
    assert all(result["sum"].tolist() == expected for result in ranks)


def test_the_largest_of_all_ranks(ranks: list[dict[str, Any]]) -> None:
    assert all(result["max"] == [5 * (len(ranks) - 1), 0] for result in ranks)


def test_gathered_rows_bring_back_the_gradient_of_all_ranks(ranks: list[dict[str, Any]]) -> None:
    total = sum(range(1, len(ranks) + 1))  # each rank's loss weighs by rank + 1
    expected = total * torch.arange(1.0, 6.0)[:, None].expand(5, 2)
    for result in ranks:
        assert torch.equal(result["rows"][0], torch.arange(10.0).view(5, 2))
    gradients = [result["rows"][1] for result in ranks]
    assert torch.equal(torch.cat(gradients), expected)


def test_one_process_without_a_launcher_is_a_world_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert join_world("cpu") == single_world()
    assert single_world().is_main


def test_one_process_takes_no_detour() -> None:
    array = np.arange(3)
    assert broadcast_array(array, single_world()) is array
