"""The engine: forward, backward and optimizer step of one module over all ranks, the same for every kind of training.

    module, optimizer ──wrap──▶ engine.model(x) ─▶ loss ─▶ engine.backward(loss) ─▶ take_step: all finite? clip ─▶ engine.step()

Every engine averages gradients over the ranks, keeps fp32 master weights (bf16 is autocast around the forward pass), takes
the learning rate from the caller before each step, and saves whole tensors by parameter name: a checkpoint written on two
ranks is read on three. Frozen parameters (requires_grad = False) have no optimizer state and are not in it: who loads it has
them from where they came.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from hnm.engine.deepspeed_config import resolve_deepspeed
from hnm.engine.ranks import World

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
RATE_SCALE = "rate_scale"  # of a group of the optimizer: what the learning rate is multiplied by for it


class EngineConfig(BaseModel):
    """The section `engine`: how training is spread over the ranks, and in which precision it computes."""

    model_config = ConfigDict(extra="forbid")

    deepspeed: dict[str, Any] | None = Field(
        None,
        description="train with DeepSpeed: zero0, zero1, zero2, zero3, the path of a JSON file, or its content; null = torch's "
        "DistributedDataParallel",
    )
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        "fp32",
        description="bf16: autocast in the encoder's forward pass, in training and in embedding: half the memory and twice the "
        "speed where the chip has it; weights, optimizer, losses and the aggregator stay fp32. tf32: on a GPU, fp32 numbers "
        "multiplied with 10 bits of mantissa; on a CPU the same as fp32",
    )
    deterministic: bool = Field(
        False,
        description="on a GPU: only algorithms that give the same bits each time (cuDNN, cuBLAS, no sums in any order); slower. "
        "A CPU gives them anyhow",
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
        from hnm.installed import config_folder

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

    def save(self, folder: Path, prefix: str = "") -> None:
        """Write weights and optimizer state into `folder`, in files whose names begin with `prefix`."""

    def load(self, folder: Path, prefix: str = "") -> None:
        """Read what `save` wrote, on any number of ranks.

        Raises:
            InputError: the files are not whole, or belong to another network or optimizer.
        """

    def full_weights(self) -> dict[str, Tensor]:
        """Return the whole state dict on every rank; it may share memory with the module being trained."""


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


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are not frozen, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def kept_tensors(module: nn.Module) -> set[str]:
    """Return the names of the tensors that a checkpoint holds: all of the state dict but frozen parameters."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return module.state_dict().keys() - frozen


def set_rates(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of each group of an optimizer: `lr`, times the group's scale if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get(RATE_SCALE, 1.0)


def on_device(module: nn.Module, config: EngineConfig, world: World) -> nn.Module:
    """Move `module` to the world's device, in the configured memory layout, and return it in training mode."""
    layout = torch.channels_last if config.channels_last else torch.preserve_format
    with torch.inference_mode(False):  # parameters that are moved while features are computed must stay trainable
        return module.to(world.device, memory_format=layout).train()  # type: ignore[call-overload]


def for_inference(module: nn.Module, config: EngineConfig, world: World) -> Forward:
    """Return a module's forward pass as it is trained, in evaluation mode; without torch.compile, which would take longer."""
    return Forward(on_device(module, config, world), config.model_copy(update={"compile": False}), world.device).eval()


