"""Everything that ranks exchange, on 1, 2 and 3 real gloo ranks; one start of the ranks serves all tests here."""

import json
from typing import Any

import numpy as np
import pytest
import torch

import launch.distributed as distributed
from launch.distributed import (
    World,
    average_gradients,
    barrier,
    broadcast_array,
    gather_rows,
    gather_to_main,
    join_world,
    main_says,
    single_world,
    stop_unless_finite,
    sum_over_ranks,
    wrap_in_ddp,
)
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
    whole = distributed.CHUNK_BYTES
    results: dict[str, Any] = {"world": (world.rank, world.size, world.is_main)}
    for chunk_bytes in (24, whole):
        distributed.CHUNK_BYTES = chunk_bytes
        for dtype in DTYPES:
            name = f"{np.dtype(dtype).name} in chunks of {chunk_bytes}"
            for length in (0, 1, 100):
                array = numbers(length, dtype) if world.is_main else None
                results[f"broadcast {length} {name}"] = broadcast_array(array, world)
            for sizes in SIZES_OF_WORLD[world.size]:
                results[f"gather {sizes} {name}"] = gathered(sizes, dtype, world)
    distributed.CHUNK_BYTES = whole
    results["main_says"] = [main_says(world.is_main, world), main_says(not world.is_main, world)]
    results["sum"] = sum_over_ranks(torch.tensor([1.0, float(world.rank)]), world)
    barrier(world)
    results["rows"] = rows_and_gradient(world)
    results["averaged"] = averaged(world)
    results["finite"] = stop_unless_finite(torch.tensor(float(world.rank + 1)), "step 3", world)
    for value in (float("nan"), float("inf")):
        loss = torch.tensor(value if world.rank == world.size - 1 else 1.0)
        try:
            stop_unless_finite(loss, "step 4", world)
        except FloatingPointError as error:
            results[f"stopped by {value}"] = str(error)
    torch.manual_seed(world.rank)
    layer = wrap_in_ddp(torch.nn.Linear(3, 1), world)
    layer(torch.full((2, 3), float(world.rank))).mean().backward()
    results["ddp"] = {name.removeprefix("module."): (p.detach(), p.grad) for name, p in layer.named_parameters()}
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


def averaged(world: World) -> list[torch.Tensor | None]:
    """Average the gradients of two parameters; the last rank had nothing to do."""
    parameters = [torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(3))]
    if world.rank < world.size - 1 or world.size == 1:
        parameters[0].grad = torch.full((2, 2), 6.0)
        parameters[1].grad = torch.tensor([6.0, 12.0, 6.0 * world.rank])
    average_gradients(parameters, world)
    return [parameter.grad for parameter in parameters]


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


def test_gathered_rows_bring_back_the_gradient_of_all_ranks(ranks: list[dict[str, Any]]) -> None:
    total = sum(range(1, len(ranks) + 1))  # each rank's loss weighs by rank + 1
    expected = total * torch.arange(1.0, 6.0)[:, None].expand(5, 2)
    for result in ranks:
        assert torch.equal(result["rows"][0], torch.arange(10.0).view(5, 2))
    gradients = [result["rows"][1] for result in ranks]
    assert torch.equal(torch.cat(gradients), expected)


def test_a_rank_without_work_counts_as_zero_in_the_mean(ranks: list[dict[str, Any]]) -> None:
    busy = max(1, len(ranks) - 1)
    share = busy / len(ranks)
    expected = [torch.full((2, 2), 6 * share), torch.tensor([6 * share, 12 * share, 6 * sum(range(busy)) / len(ranks)])]
    for result in ranks:
        for gradient, mean in zip(result["averaged"], expected, strict=True):
            torch.testing.assert_close(gradient, mean)


def test_a_finite_loss_gives_its_mean(ranks: list[dict[str, Any]]) -> None:
    assert all(result["finite"] == (len(ranks) + 1) / 2 for result in ranks)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_one_bad_loss_stops_all_ranks_and_names_step_and_rank(ranks: list[dict[str, Any]], value: str) -> None:
    for rank, result in enumerate(ranks):
        message = result[f"stopped by {value}"]
        assert message.startswith(f"loss is {value} at step 4 (rank {rank}: ")
        assert ("1.0)" in message) == (rank < len(ranks) - 1)
        assert "learning rate" in message


def test_ddp_starts_from_rank_0_and_averages_gradients(ranks: list[dict[str, Any]]) -> None:
    torch.manual_seed(0)
    weight = torch.nn.Linear(3, 1).weight
    for result in ranks:
        assert torch.equal(result["ddp"]["weight"][0], weight)
        torch.testing.assert_close(result["ddp"]["weight"][1], torch.full((1, 3), (len(ranks) - 1) / 2))
        torch.testing.assert_close(result["ddp"]["bias"][1], torch.ones(1))


def test_one_process_without_a_launcher_is_a_world_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert join_world("cpu") == single_world()
    assert single_world().is_main


def test_one_process_takes_no_detour() -> None:
    world, module, array = single_world(), torch.nn.Linear(1, 1), np.arange(3)
    assert wrap_in_ddp(module, world) is module
    assert broadcast_array(array, world) is array
    average_gradients([torch.nn.Parameter(torch.zeros(1))], world)  # no gradient, nobody to ask
