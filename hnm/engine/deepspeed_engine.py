"""DeepSpeed as an engine: ZeRO 1 splits the optimizer's state over the ranks, 2 also the gradients, 3 also the weights.

DeepSpeed joins the process group that we have made, takes our torch optimizer, and leaves to us what both engines do alike:
autocast, clipping, the finite check, learning rates and checkpoints. Its own checkpoints are pickles, which run code when they
are loaded, and fit only the same number of ranks; we write whole tensors by parameter name instead (see hnm/engine/engine.py).
"""

import copy
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hnm.engine.engine import (
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

# One loss a step, nothing of DeepSpeed's own clipping, printing or choice of optimizers: these are the engine's tasks.
FIXED: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": 1,
    "gradient_accumulation_steps": 1,
    "gradient_clipping": 0.0,
    "zero_allow_untested_optimizer": True,
    "steps_per_print": 1 << 60,
}


class DeepSpeedEngine:
    """See hnm/engine/engine.py: Engine. The module that it was made of is not to be used afterwards: take `full_weights`."""

    def __init__(self, module: nn.Module, make_optimizer: MakeOptimizer, config: EngineConfig, world: World) -> None:
        self.deepspeed, self.world = _import_deepspeed(world), world
        assert config.deepspeed is not None
        self.stage = int(config.deepspeed["zero_optimization"]["stage"])
        self.module = on_device(module, config, world)
        self.parameters = dict(self.module.named_parameters())
        self.trained, self.kept = trained_parameters(self.module), kept_tensors(self.module)
        optimizer = make_optimizer(self.trained.values())
        forward = Forward(self.module, config, world.device)
        settings = {**copy.deepcopy(config.deepspeed), **FIXED}
        self.model, self.optimizer, _, _ = self.deepspeed.initialize(
            model=forward, model_parameters=None, optimizer=optimizer, config=settings
        )

    def set_rate(self, lr: float) -> None:
        """See `Engine`."""
        set_rates(self.optimizer, lr)

    def backward(self, loss: Tensor) -> None:
        """See `Engine`."""
        self.model.backward(loss)

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """See `Engine`."""
        self.model.set_gradient_accumulation_boundary(False)
        try:
            yield
        finally:
            self.model.set_gradient_accumulation_boundary(True)

    def squared_norm(self) -> Tensor:
        """See `Engine`. From ZeRO 1 on a rank holds averaged gradients for its own part of the parameters only."""
        squared = nn.utils.get_total_norm(self._gradients()).double().square()
        return squared / self.world.size if self.stage == 0 else squared

    def step(self, scale: float = 1.0) -> None:
        """See `Engine`."""
        if scale != 1.0:
            torch._foreach_mul_(self._gradients(), scale)
        self.model.step()

    def save(self, folder: Path, prefix: str = "") -> None:
        """See `Engine`."""
        weights, state = self.full_weights(), self._full_state()
        if self.world.is_main:
            write_state(folder, {name: tensor for name, tensor in weights.items() if name in self.kept}, state, prefix)

    def load(self, folder: Path, prefix: str = "") -> None:
        """See `Engine`."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.module.state_dict().items()}
        shapes |= {name: _shape(parameter) for name, parameter in self.parameters.items()}
        weights, state = read_state(folder, {name: shape for name, shape in shapes.items() if name in self.kept}, prefix)
        with torch.no_grad():
            for name, buffer in self.module.named_buffers():
                if name in weights:
                    buffer.copy_(weights[name])
            for name, parameter in self.trained.items():
                with self._whole(parameter, changed=True):
                    parameter.copy_(weights[name])
        if self.stage:
            self.optimizer.refresh_fp32_params()
        self._set_state(state)

    def full_weights(self) -> dict[str, Tensor]:
        """See `Engine`."""
        weights = self.module.state_dict()
        if self.stage == 3:
            for name, parameter in self.parameters.items():
                with self._whole(parameter):
                    weights[name] = parameter.detach().cpu().clone()
        return weights

    def _gradients(self) -> list[Tensor]:
        """Return this rank's averaged gradients: whole ones under ZeRO 0, its part of them from ZeRO 1 on."""
        if self.stage == 0:
            return [p.grad for p in self.parameters.values() if p.grad is not None]
        return [gradient for group in self.optimizer.averaged_gradients.values() for gradient in group or []]

    @contextmanager
    def _whole(self, parameter: nn.Parameter, changed: bool = False) -> Iterator[None]:
        """Have the whole parameter on every rank for a block; `changed`: rank 0's value afterwards is the new one."""
        if self.stage < 3:
            yield
            return
        with self.deepspeed.zero.GatheredParameters([parameter], modifier_rank=0 if changed else None):
            yield

    def _flat_parts(self) -> list[Tensor]:
        """Return the flat fp32 tensors, this rank's part of the parameters, that the optimizer works on (ZeRO 1 to 3)."""
        parts: list[Tensor] = (
            self.optimizer.fp32_partitioned_groups_flat
            if self.stage == 3
            else self.optimizer.single_partition_of_fp32_groups
        )
        return parts

    def _full_state(self) -> dict[str, dict[str, Any]]:
        """Return the optimizer's whole state by parameter name. Every rank must call it."""
        if self.stage == 0:
            entries = self.optimizer.state
            return {
                name: dict(entries[parameter]) for name, parameter in self.trained.items() if entries.get(parameter)
            }
        from deepspeed.utils import safe_get_full_optimizer_state

        entry = self.optimizer.optimizer.state.get(self._flat_parts()[0], {})
        tensors = {key: value for key, value in entry.items() if isinstance(value, Tensor)}
        self._link_moments()
        return {
            name: {
                key: value if value.dim() == 0 else safe_get_full_optimizer_state(parameter, key)
                for key, value in tensors.items()
            }
            for name, parameter in self.trained.items()
            if tensors
        }

    def _set_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Give the optimizer the whole state that `_full_state` returned, on any number of ranks."""
        base = self.optimizer if self.stage == 0 else self.optimizer.optimizer
        device = self.world.device
        if self.stage == 0:
            for name, entry in state.items():
                base.state[self.parameters[name]] = {key: value.to(device) for key, value in entry.items()}
            return
        if not state:
            return
        for part in self._flat_parts():
            for key, value in next(iter(state.values())).items():
                # each group counts its own steps: a tensor that they shared would count each step for each of them
                base.state[part][key] = value.to(device).clone() if value.dim() == 0 else torch.zeros_like(part)
        self._link_moments()
        for name, entry in state.items():
            for key, value in entry.items():
                if value.dim():
                    self._set_moment(self.parameters[name], value.to(device), key)

    def _link_moments(self) -> None:
        """Give the parameters of ZeRO 1 and 2 their views of the optimizer's state that is there now.

        DeepSpeed does so once, after the first step of the first group of parameters: the other groups have no state yet.
        """
        if self.stage < 3:
            self.optimizer._hp_optimizer_states_linked = False
            self.optimizer._lazy_init_hp_params_optimizer_state()

    def _set_moment(self, parameter: nn.Parameter, value: Tensor, key: str) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self.stage < 3:
            safe_set_full_optimizer_state(parameter, value, key)
            return
        length = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        padded = value.new_zeros(length * self.world.size)
        padded[: value.numel()] = value.flatten()
        safe_set_local_optimizer_state(parameter, padded[self.world.rank * length :][:length], key)


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Return the whole parameter's shape, also where ZeRO 3 has cut it up."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _import_deepspeed(world: World) -> Any:
    """Import DeepSpeed for the world's device, with a process group to join."""
    os.environ.setdefault("DS_ACCELERATOR", world.device.type)
    os.environ.setdefault(
        "LOCAL_RANK", str(world.local_rank)
    )  # one process without a launcher; DeepSpeed insists on it
    import deepspeed
    import deepspeed.ops
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)  # it warns of every optimizer but Adam, and that is tested here
    # DeepSpeed 0.19 calls what torch 2.13 has renamed, at every step.
    warnings.filterwarnings("ignore", r"`torch.distributed.(all_gather_into|reduce_scatter)_tensor` is deprecated")
    # An alternative to gloo within one machine, which would be compiled for 80 s at the first start on a CPU. The table is
    # made when it is first read, by trying a compiler on every extension that there is: it is put there instead.
    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    if not dist.is_initialized():  # one process without a launcher
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    deepspeed.init_distributed(dist_backend=dist.get_backend(), dist_init_required=False)
    return deepspeed
