"""A step in chunks has the loss and the gradients of the whole batch, on every engine and any number of ranks."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hnm.config import ConfigError, load_config
from hnm.encoder.contrastive_model import ContrastiveModel, forward_backward, fresh_model, start_training
from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.grad_cache import count_chunks
from hnm.encoder.losses import nt_xent, supcon
from hnm.engine.engine import EngineConfig
from hnm.engine.ranks import World, single_world
from tests.ranks import on_ranks

ENCODER = EncoderConfig(stem="small", width=0.125, projection_dim=16)
ENGINES: dict[str, Any] = {name: name for name in ("zero0", "zero1", "zero2")}
ENGINES |= {"ddp": None, "zero3": {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}}


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1.0)


def sizes_of(world: World) -> list[int]:
    return {1: [9], 2: [5, 4], 3: [3, 3, 3]}[world.size]


def gradient_of(
    model: ContrastiveModel, chunk_size: int, world: World, engine: str = "ddp", pairs: str | None = None
) -> tuple[float, dict[str, Tensor]]:
    """Return this rank's loss, and the gradient: by how much a step of plain SGD at rate 1 moves the weights."""
    sizes, dtype = sizes_of(world), next(model.parameters()).dtype
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = start_training(model, sgd, EngineConfig(deepspeed=ENGINES[engine]), world)
    views = torch.rand(2, 9, 3, 24, 24, dtype=dtype, generator=torch.Generator().manual_seed(0))
    mine = views.split(sizes, dim=1)[world.rank]
    positive = (torch.arange(9) % 3 == 0).split(sizes)[world.rank]

    def loss_of(features: Tensor) -> Tensor:
        if pairs is None:
            return nt_xent(features, sizes, 0.5, world)
        return supcon(features, positive, positive, sizes, 0.5, pairs, world)  # type: ignore[arg-type]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        ids = torch.arange(sizes[world.rank]).numpy()
        computed = forward_backward(trained, mine.flatten(0, 1), ids, sizes, chunk_size, loss_of)
    trained.set_rate(1.0)
    trained.step()
    after = trained.full_weights()
    assert computed.outputs.shape == (sizes[world.rank], 2, 16)
    return float(computed.loss), {name: before[name] - after[name] for name in before}


def differences(world: World) -> dict[str, float]:
    """Return, by case, the largest difference between a gradient in chunks and the whole batch's."""
    cases = [
        ("ddp", torch.float64, 1, None),
        ("ddp", torch.float64, 2, "negative"),
        ("ddp", torch.float64, 2, "positive"),
    ]
    cases += [(name, torch.float32, 2, None) for name in ENGINES]
    found = {}
    for name, dtype, chunk_size, pairs in cases:
        loss, gradient = gradient_of(fresh_model(ENCODER, 0).to(dtype), chunk_size, world, name, pairs)
        expected_loss, expected = whole_batch(dtype, world, pairs)
        largest = max(float((gradient[key] - expected[key]).abs().max()) for key in expected)
        found[f"{name} {dtype} {chunk_size} {pairs}"] = max(largest, abs(loss - expected_loss))
    return found


@cache
def whole_batch(dtype: torch.dtype, world: World, pairs: str | None = None) -> tuple[float, dict[str, Tensor]]:
    return gradient_of(fresh_model(ENCODER, 0).to(dtype), 0, world, "ddp", pairs)


def test_chunks_give_the_whole_batchs_gradient_on_two_ranks_and_every_engine() -> None:
    for result in on_ranks(2, differences):
        assert len(result) == 8
        for case, difference in result.items():
            assert difference < (1e-10 if "float64" in case else 1e-5), case


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_chunks_give_the_whole_batchs_gradient(dtype: torch.dtype, tolerance: float) -> None:
    expected_loss, expected = whole_batch(dtype, single_world())
    assert max(float(tensor.abs().max()) for tensor in expected.values()) > 1e-2
    for chunk_size in (1, 4, 8):
        loss, gradient = gradient_of(fresh_model(ENCODER, 0).to(dtype), chunk_size, single_world())
        assert loss == pytest.approx(expected_loss, abs=tolerance)
        for key, tensor in expected.items():
            torch.testing.assert_close(gradient[key], tensor, atol=tolerance, rtol=0)


def test_a_chunk_draws_the_same_in_both_passes() -> None:
    model = fresh_model(ENCODER, 0).double()
    model.projection.l1 = nn.Sequential(model.projection.l1, Recorder(), nn.Dropout(0.5))  # type: ignore[assignment]
    recorder = model.projection.l1[1]
    model.projection.l1[2].register_forward_hook(lambda _, inputs, output: recorder.seen.append(output == 0))
    gradient_of(model, 3, single_world())
    assert len(recorder.seen) == 6  # three chunks, two passes
    for first, second in zip(recorder.seen[:3], recorder.seen[3:], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(recorder.seen[0], recorder.seen[1])


class Recorder(nn.Identity):
    """A place to keep what was seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []


def test_all_ranks_take_as_many_chunks_as_the_fullest_needs() -> None:
    assert [count_chunks([9, 8], size) for size in (0, 1, 4, 8, 9, 100)] == [1, 9, 3, 2, 1, 1]


@pytest.mark.parametrize("section", ["pretrain", "finetune"])
def test_batch_norm_would_see_chunks_and_is_refused(section: str) -> None:
    load_config(overrides=[f"{section}.chunk_size=8"])
    with pytest.raises(
        ConfigError, match=rf"{section}\.chunk_size is 8, but encoder\.norm is batch.*Set .* to instance"
    ):
        load_config(overrides=[f"{section}.chunk_size=8", "encoder.norm=batch"])
