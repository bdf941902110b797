"""The engines: torch's DistributedDataParallel here, DeepSpeed in its own file, and `wrap`, which chooses."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from hnm.engine.engine import (
    Engine,
    EngineConfig,
    Forward,
    MakeOptimizer,
    kept_tensors,
    on_device,
    set_rates,
    trained_parameters,
)
from hnm.engine.ranks import World
from hnm.engine.state import read_state, write_state


def wrap(module: nn.Module, make_optimizer: MakeOptimizer, config: EngineConfig, world: World) -> Engine:
    """Make `module` ready to be trained by all ranks; all start from rank 0's weights. Every rank must call it.

    The engine takes the module over: when training is done, the weights are in `full_weights`.

    Args:
        module: on the CPU or on the world's device, with its batch norms made global already.
        make_optimizer: gets the parameters and returns the optimizer; its rate is set by `set_rate` before each step.
    """
    if config.deepspeed is None:
        return DDPEngine(module, make_optimizer, config, world)
    from hnm.engine.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(module, make_optimizer, config, world)


class DDPEngine:
    """Every rank holds everything; gradients are averaged while backward runs (torch's DistributedDataParallel)."""

    def __init__(self, module: nn.Module, make_optimizer: MakeOptimizer, config: EngineConfig, world: World) -> None:
        self.module, self.world = on_device(module, config, world), world
        self.optimizer = make_optimizer(trained_parameters(self.module).values())
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
        set_rates(self.optimizer, lr)

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

    def save(self, folder: Path, prefix: str = "") -> None:
        """See `Engine`."""
        if self.world.is_main:
            kept, names = kept_tensors(self.module), self._names()
            weights = {name: tensor for name, tensor in self.module.state_dict().items() if name in kept}
            state = self.optimizer.state_dict()["state"]
            write_state(folder, weights, {names[index]: entry for index, entry in state.items()}, prefix)

    def load(self, folder: Path, prefix: str = "") -> None:
        """See `Engine`."""
        kept = kept_tensors(self.module)
        shapes = {name: tuple(tensor.shape) for name, tensor in self.module.state_dict().items() if name in kept}
        weights, state = read_state(folder, shapes, prefix)
        self.module.load_state_dict(weights, strict=False)  # read_state has checked; the frozen ones are there
        numbers = {name: index for index, name in enumerate(self._names())}
        groups = self.optimizer.state_dict()["param_groups"]
        by_number = {numbers[name]: entry for name, entry in state.items()}
        self.optimizer.load_state_dict({"state": by_number, "param_groups": groups})

    def full_weights(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return self.module.state_dict()

    def _names(self) -> list[str]:
        """Return the names of the optimizer's parameters in its order, group by group."""
        names = {parameter: name for name, parameter in trained_parameters(self.module).items()}
        return [names[parameter] for group in self.optimizer.param_groups for parameter in group["params"]]

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]

