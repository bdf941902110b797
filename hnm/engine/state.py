"""An engine's state on disk: whole tensors by parameter name, the same files from every engine and number of ranks.

weights.safetensors     the module's state dict
optimizer.safetensors   "<parameter>/exp_avg" and the like, in the parameter's shape, or a scalar such as "<parameter>/step"

safetensors holds numbers and nothing that could be run: a stranger's file is refused, or is numbers.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from shards.errors import InputError
from shards.files import whole_file

NO_FILE = "{}: no such file. Give the path of a *.safetensors or *.pth file"
WEIGHTS_FILE, OPTIMIZER_FILE = "weights.safetensors", "optimizer.safetensors"


State = dict[str, Tensor]


def save_weights(path: Path, module_or_state: nn.Module | Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write weights as safetensors, whole or not at all; identical weights and metadata give identical bytes.

    Args:
        path: the file to write, by convention *.safetensors.
        module_or_state: a module (its state dict is taken) or named tensors, on any device.
        metadata: strings to keep with them.
    """
    state = module_or_state.state_dict() if isinstance(module_or_state, nn.Module) else module_or_state
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    content = _with_sorted_header(safetensors.torch.save(tensors, metadata))
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def _with_sorted_header(content: bytes) -> bytes:
    """Order the metadata by key: safetensors writes it in the order of a randomly seeded hash map.

    Layout: 8 bytes little-endian header length, the header in JSON padded with spaces to 8 bytes, the tensors.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header = {"__metadata__": dict(sorted(header.pop("__metadata__", {}).items())), **header}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def load_weights(path: Path) -> tuple[State, dict[str, str]]:
    """Read a safetensors file into the CPU's memory.

    Returns:
        The named tensors and the metadata.

    Raises:
        InputError: the file is missing, cut short or no safetensors file.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def load_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file alone.

    Raises:
        InputError: see `load_weights`.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:  # no look whether it is there: another node may remember a look in vain (see ranks.main_says)
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(NO_FILE.format(path)) from None
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}). Copy or save it again") from error


def require_file(path: Path) -> None:
    """Refuse a path at which there is no file.

    Raises:
        InputError: there is none.
    """
    if not path.is_file():
        raise InputError(NO_FILE.format(path))


def write_state(
    folder: Path, weights: Mapping[str, Tensor], state: Mapping[str, Mapping[str, Any]], prefix: str = ""
) -> None:
    """Write weights and optimizer state, {parameter: {"exp_avg": tensor, ...}}, as safetensors. Call it on rank 0 only.

    The names of the two files begin with `prefix`.
    """
    moments = {
        f"{name}/{key}": torch.as_tensor(value)
        for name, entry in state.items()
        for key, value in entry.items()
        if value is not None
    }
    save_weights(folder / f"{prefix}{WEIGHTS_FILE}", weights, {"holds": "weights"})
    save_weights(folder / f"{prefix}{OPTIMIZER_FILE}", moments, {"holds": "optimizer state"})


def read_state(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], prefix: str = ""
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Read what `write_state` wrote.

    Args:
        shapes: of all tensors of the module, by name.
        prefix: as it was written with.

    Raises:
        InputError: a file is not whole, or has other names or shapes.
    """
    weights_file, optimizer_file = folder / f"{prefix}{WEIGHTS_FILE}", folder / f"{prefix}{OPTIMIZER_FILE}"
    weights = load_weights(weights_file)[0]
    if {name: tuple(tensor.shape) for name, tensor in weights.items()} != dict(shapes):
        raise InputError(
            f"{weights_file}: of another network than the configuration's. Set encoder.* as it was"
        )
    state: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_weights(optimizer_file)[0].items():
        name, _, entry = key.rpartition("/")
        if name not in shapes or tuple(tensor.shape) not in ((), shapes[name]):
            raise InputError(f"{optimizer_file}: {key} belongs to another network. Set encoder.* as it was")
        state.setdefault(name, {})[entry] = tensor
    return weights, state
