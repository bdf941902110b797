"""Adapters on disk: what a file says of them and of the network that they belong to, and the layout that others read.

    *.safetensors   lora_A and lora_B of every layer; metadata "lora": their settings
                    with metadata "base": adapters alone; name, SHA-256 and place of the weights that they were trained beside
    folder          adapter_config.json, adapter_model.safetensors: read by peft's PeftModel.from_pretrained(network, folder)
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from hnm.encoder.lora import LoraConfig, adapters_of, config_of, is_of_adapter
from hnm.engine.state import State, save_weights
from shards.errors import InputError
from shards.files import write_json

BASE_KEY, LORA_KEY, HEAD = "base", "lora", "projection."  # of the metadata; beginning of the head's names
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Base(BaseModel):
    """The weights that adapters were trained beside.

    Attributes:
        name: of the network, as in encoder.name.
        sha256: of its tensors, see `weights_digest`.
        file: where they lie, seen from the adapters' file; "": not told.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sha256: str
    file: str = ""


def weights_digest(network: nn.Module) -> str:
    """Return the SHA-256 of a network's tensors, adapters left out: the same whatever file they came from."""
    found = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if not is_of_adapter(name):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(dtype=torch.uint8).numpy().tobytes())
    return found.hexdigest()


def told_of_adapters(metadata: Mapping[str, str], origin: Path) -> tuple[LoraConfig | None, Base | None]:
    """Return what a file's metadata says of its adapters, and of the weights that it leaves out.

    Raises:
        InputError: it is not readable.
    """
    try:
        lora = LoraConfig.model_validate_json(metadata[LORA_KEY]) if LORA_KEY in metadata else None
        base = Base.model_validate_json(metadata[BASE_KEY]) if BASE_KEY in metadata else None
    except ValidationError as error:
        raise InputError(f"{origin}: what it says of its adapters is not readable. It is damaged, or of a newer hnm") from error
    return lora, base


def find_base(path: Path, base: Base) -> Path:
    """Return the file of the weights that a file of adapters leaves out.

    Raises:
        InputError: it is not where it was, nor beside the adapters.
    """
    named = [path.parent / base.file] if base.file else []
    places = [*named, *(path.parent / f"base{suffix}" for suffix in SUFFIXES)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        was = f" {named[0]} is gone." if named else ""
        raise InputError(
            f"{path}: holds adapters alone, of {base.name} (SHA-256 of its tensors {base.sha256}).{was} Put its weights, or a "
            f"link to them, there as {path.parent / 'base.safetensors'} (or base.pth)"
        )
    return found


def require_base(network: nn.Module, base: Base, path: Path, found: Path) -> None:
    """Refuse weights that are not those that the adapters were trained beside.

    Raises:
        InputError: naming both digests.
    """
    digest = weights_digest(network)
    if digest != base.sha256:
        raise InputError(
            f"{found}: not the weights that the adapters of {path} were trained beside (SHA-256 of the tensors {digest} instead "
            f"of {base.sha256}). Put those of {base.name} there"
        )


def without_base(weights: Mapping[str, Tensor]) -> State:
    """Return the tensors that a file of adapters holds: theirs and the projection head's."""
    return {name: tensor for name, tensor in weights.items() if is_of_adapter(name) or name.startswith(HEAD)}


def write_peft(folder: Path, network: nn.Module, base: Base) -> None:
    """Write the adapters of a network in peft's layout, for the network under its own names."""
    lora = config_of(network)
    assert lora is not None
    tensors = {f"base_model.model.{name}": t for name, t in network.state_dict().items() if is_of_adapter(name)}
    save_weights(folder / PEFT_WEIGHTS, tensors, {"format": "pt"})
    content = {
        "peft_type": "LORA", "task_type": None, "inference_mode": True, "bias": "none", "fan_in_fan_out": False,
        "base_model_name_or_path": f"{base.name} sha256:{base.sha256}", "r": lora.rank, "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout, "target_modules": list(adapters_of(network)), "modules_to_save": None,
    }  # fmt: skip
    write_json(folder / PEFT_CONFIG, content)
