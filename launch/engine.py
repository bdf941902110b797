"""The engine: forward, backward and optimizer step of one module over all ranks, the same for every kind of training.

    module, optimizer ──wrap──▶ engine.model(x) ─▶ loss ─▶ engine.backward(loss) ─▶ take_step: all finite? clip ─▶ engine.step()

Every engine averages gradients over the ranks, keeps fp32 master weights (bf16 is autocast around the forward pass), takes
the learning rate from the caller before each step, and saves whole tensors by parameter name: a checkpoint written on two
ranks is read on three.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from launch.deepspeed_config import resolve_deepspeed
from launch.distributed import World, sum_over_ranks
from launch.engine_files import read_state, write_state

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

NUM_NAMED = 8  # items that the message of a stop names


class EngineConfig(BaseModel):
    """The section `engine`: how training is spread over the ranks, and in which precision it computes."""

    model_config = ConfigDict(extra="forbid")

    deepspeed: dict[str, Any] | None = Field(
        None,
        description="train with DeepSpeed: zero0, zero1, zero2, zero3, the path of a JSON file, or its content; null = torch's "
        "DistributedDataParallel",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="bf16: autocast in the encoder's forward pass, in training and in embedding: half the memory and twice the "
        "speed where the chip has it; weights, optimizer, losses and the aggregator stay fp32",
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        description="gradients longer than this (L2 norm over all parameters) are scaled to it; null = never",
    )
    channels_last: bool = Field(
        False,
        description="memory layout of images and convolutions: faster with encoder.norm=batch, slower with instance",
    )
    compile: bool = Field(
        False, description="torch.compile the contrastive model: a minute of compiling first, then faster steps"
    )

    @field_validator("deepspeed", mode="before")
    @classmethod
    def _resolve(cls, value: Any) -> Any:
        """Put the content in the place of a name: the run's config.yaml then says all."""
        from hnm.config import config_folder

        return None if value is None else resolve_deepspeed(value, config_folder() / "deepspeed")


class Engine(Protocol):
    """What a training loop may ask for. Every rank must make the same calls in the same order.

    Attributes:
        model: call it for the forward pass.
    """

    model: nn.Module

    def set_rate(self, lr: float) -> None:
        """Set the learning rate of the next step."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, averaged over the ranks, to those since the last step."""

    def accumulate(self) -> AbstractContextManager[object]:
        """Return a context whose forward and backward passes are not the step's last: gradients are averaged with that."""

    def squared_norm(self) -> Tensor:
        """Return this rank's share of the squared L2 norm of the gradients: the ranks' shares sum to it."""

    def step(self, scale: float = 1.0) -> None:
        """Multiply the gradients by `scale`, let the optimizer take its step, and forget the gradients."""

    def save(self, folder: Path) -> None:
        """Write weights and optimizer state into `folder`."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, on any number of ranks.

        Raises:
            InputError: the files are not whole, or belong to another network or optimizer.
        """

    def full_weights(self) -> dict[str, Tensor]:
        """Return the whole state dict on every rank; it may share memory with the module being trained."""


def wrap(module: nn.Module, make_optimizer: MakeOptimizer, config: EngineConfig, world: World) -> Engine:
    """Make `module` ready to be trained by all ranks; all start from rank 0's weights. Every rank must call it.

    The engine takes the module over: when training is done, the weights are in `full_weights`.

    Args:
        module: on the CPU or on the world's device, with its batch norms made global already.
        make_optimizer: gets the parameters and returns the optimizer; its rate is set by `set_rate` before each step.
    """
    if config.deepspeed is None:
        return DDPEngine(module, make_optimizer, config, world)
    from launch.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(module, make_optimizer, config, world)


class Forward(nn.Module):
    """A module's forward pass in the configured precision and memory layout.

    Inside the engine's wrapper, because DeepSpeed switches an autocast around itself off.
    """

    def __init__(self, module: nn.Module, config: EngineConfig, device: torch.device) -> None:
        super().__init__()
        self.module = torch.compile(module) if config.compile else module
        self.channels_last = config.channels_last
        self.autocast_on = device.type if config.precision == "bf16" else None

    def forward(self, inputs: Any) -> Any:
        if self.channels_last and isinstance(inputs, Tensor) and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with self.autocast_context():
            return self.module(inputs)

    def autocast_context(self) -> AbstractContextManager[object]:
        """Return the context of the forward pass."""
        return torch.autocast(self.autocast_on, torch.bfloat16) if self.autocast_on else nullcontext()


def on_device(module: nn.Module, config: EngineConfig, world: World) -> nn.Module:
    """Move `module` to the world's device, in the configured memory layout, and return it in training mode."""
    layout = torch.channels_last if config.channels_last else torch.preserve_format
    return module.to(world.device, memory_format=layout).train()  # type: ignore[call-overload]


def for_inference(module: nn.Module, config: EngineConfig, world: World) -> Forward:
    """Return a module's forward pass as it is trained, in evaluation mode; without torch.compile, which would take longer."""
    return Forward(on_device(module, config, world), config.model_copy(update={"compile": False}), world.device).eval()


class DDPEngine:
    """Every rank holds everything; gradients are averaged while backward runs (torch's DistributedDataParallel)."""

    def __init__(self, module: nn.Module, make_optimizer: MakeOptimizer, config: EngineConfig, world: World) -> None:
        self.module, self.world = on_device(module, config, world), world
        self.optimizer = make_optimizer(self.module.parameters())
        self.model: nn.Module = Forward(self.module, config, world.device)
        if world.size > 1:
            device_ids = [world.device.index] if world.device.type == "cuda" else None
            # After its first step DDP sorts the gradients anew into its buckets, and a ring adds the ranks' numbers in an order
            # that depends on the place in the bucket. From three ranks on, where the order of a sum matters, a run that was
            # resumed would differ in the last bit; with unused parameters to be found, DDP leaves the buckets as they are.
            self.model = nn.parallel.DistributedDataParallel(
                self.model, device_ids=device_ids, gradient_as_bucket_view=True, find_unused_parameters=world.size > 2
            )

    def set_rate(self, lr: float) -> None:
        """See `Engine`."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def backward(self, loss: Tensor) -> None:
        """See `Engine`."""
        loss.backward()

    def accumulate(self) -> AbstractContextManager[object]:
        """See `Engine`."""
        ddp = self.model
        return ddp.no_sync() if isinstance(ddp, nn.parallel.DistributedDataParallel) else nullcontext()

    def squared_norm(self) -> Tensor:
        """See `Engine`."""
        return nn.utils.get_total_norm(self._gradients()).double().square() / self.world.size

    def step(self, scale: float = 1.0) -> None:
        """See `Engine`."""
        if scale != 1.0:
            torch._foreach_mul_(self._gradients(), scale)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def save(self, folder: Path) -> None:
        """See `Engine`."""
        if self.world.is_main:
            names = [name for name, _ in self.module.named_parameters()]
            state = self.optimizer.state_dict()["state"]
            write_state(folder, self.module.state_dict(), {names[index]: entry for index, entry in state.items()})

    def load(self, folder: Path) -> None:
        """See `Engine`."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.module.state_dict().items()}
        weights, state = read_state(folder, shapes)
        self.module.load_state_dict(weights)
        numbers = {name: index for index, (name, _) in enumerate(self.module.named_parameters())}
        groups = self.optimizer.state_dict()["param_groups"]
        by_number = {numbers[name]: entry for name, entry in state.items()}
        self.optimizer.load_state_dict({"state": by_number, "param_groups": groups})

    def full_weights(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return self.module.state_dict()

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]


@dataclass(frozen=True)
class Computed:
    """What this rank's forward and backward pass of one step gave.

    Attributes:
        loss: scalar; its mean over the ranks is the loss of the step.
        outputs: (items, ...) the model's answer for each of this rank's items.
        ids: (items,) patch ids or slide numbers, for the message of a stop.
    """

    loss: Tensor
    outputs: Tensor
    ids: np.ndarray


def take_step(engine: Engine, computed: Computed, where: str, clip_norm: float | None, world: World) -> float:
    """Take the optimizer step after a backward pass, unless something is not finite on some rank: then nobody takes it.

    Every rank must call it. One message of 2 * ranks + 1 numbers carries all that has to be agreed on.

    Args:
        where: phase, epoch and step, for the message of a stop.
        clip_norm: see EngineConfig.

    Returns:
        The loss, the same on all ranks.

    Raises:
        FloatingPointError: on every rank, naming the ranks and their items.
    """
    figures = torch.zeros(2 * world.size + 1, dtype=torch.float64)
    figures[world.rank] = float(computed.loss.detach())
    figures[world.size + world.rank] = float(_broken(computed).sum())
    figures[-1] = float(engine.squared_norm())
    figures = sum_over_ranks(figures, world)
    losses, num_broken = figures[: world.size], figures[world.size : -1]
    norm = math.sqrt(figures[-1]) if figures[-1] >= 0 else math.nan
    if not figures.isfinite().all() or num_broken.any():
        bad_ranks = num_broken > 0 if num_broken.any() else ~losses.isfinite()
        raise FloatingPointError(_explain(computed, losses, norm, bad_ranks, where, world))
    too_long = clip_norm is not None and norm > clip_norm
    engine.step(clip_norm / norm if too_long and clip_norm else 1.0)
    return float(losses.mean())


def _broken(computed: Computed) -> Tensor:
    """Return which of this rank's items the model gave no finite answer for, (items,) bool."""
    return ~computed.outputs.detach().reshape(len(computed.ids), -1).isfinite().all(1)


def _explain(computed: Computed, losses: Tensor, norm: float, bad_ranks: Tensor, where: str, world: World) -> str:
    """Return the message of a stop, the same on all ranks. Every rank must call it."""
    broken = _broken(computed).cpu().numpy()
    ids = np.unique(computed.ids[broken] if broken.any() else computed.ids)[:NUM_NAMED]
    named = torch.zeros(world.size, NUM_NAMED, dtype=torch.int64)  # id + 1; 0 = none
    named[world.rank, : len(ids)] = torch.from_numpy(ids.astype(np.int64)) + 1
    named = sum_over_ranks(named, world)
    what = f"loss is {float(losses.mean())}"
    if losses.isfinite().all():
        what = f"the gradient's norm is {norm}"
    ranks = [
        f"rank {rank}: loss {float(losses[rank])}, ids {[int(i) - 1 for i in named[rank] if i > 0]}"
        for rank in range(world.size)
        if bad_ranks[rank] or not bad_ranks.any()
    ]
    return f"{what} at {where} ({'; '.join(ranks)}); lower the learning rate, raise tau, or set engine.clip_norm"
