"""An engine's state on disk: whole tensors by parameter name, the same files from every engine and number of ranks.

weights.safetensors     the module's state dict
optimizer.safetensors   "<parameter>/exp_avg" and the like, in the parameter's shape, or a scalar such as "<parameter>/step"

safetensors holds numbers and nothing that could be run: a stranger's file is refused, or is numbers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hnm.weights import load_weights, save_weights
from shards.errors import InputError

WEIGHTS_FILE, OPTIMIZER_FILE = "weights.safetensors", "optimizer.safetensors"


def write_state(folder: Path, weights: Mapping[str, Tensor], state: Mapping[str, Mapping[str, Any]]) -> None:
    """Write weights and optimizer state, {parameter: {"exp_avg": tensor, ...}}, as safetensors. Call it on rank 0 only."""
    moments = {
        f"{name}/{key}": torch.as_tensor(value)
        for name, entry in state.items()
        for key, value in entry.items()
        if value is not None
    }
    save_weights(folder / WEIGHTS_FILE, weights, {"holds": "weights"})
    save_weights(folder / OPTIMIZER_FILE, moments, {"holds": "optimizer state"})


def read_state(
    folder: Path, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Read what `write_state` wrote.

    Args:
        shapes: of all tensors of the module, by name.

    Raises:
        InputError: a file is not whole, or has other names or shapes.
    """
    weights = load_weights(folder / WEIGHTS_FILE)[0]
    if {name: tuple(tensor.shape) for name, tensor in weights.items()} != dict(shapes):
        raise InputError(
            f"{folder / WEIGHTS_FILE}: of another network than the configuration's. Set encoder.* as it was"
        )
    state: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_weights(folder / OPTIMIZER_FILE)[0].items():
        name, _, entry = key.rpartition("/")
        if name not in shapes or tuple(tensor.shape) not in ((), shapes[name]):
            raise InputError(f"{folder / OPTIMIZER_FILE}: {key} belongs to another network. Set encoder.* as it was")
        state.setdefault(name, {})[entry] = tensor
    return weights, state
