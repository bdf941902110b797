"""Network weights on disk: ours as safetensors with metadata, encoders of others by name.

    ours:     save_weights(network, metadata) -> *.safetensors -> load_weights -> (state, metadata)
    others':  *.safetensors, *.pth -> unnest -> torchvision's names -> sort into encoder / ignored -> load_encoder

Foreign styles understood: torchvision's ResNet (conv1.weight, layer1.0.conv1.weight, fc.*), DSMIL's SimCLR
(features.0.weight = conv1, features.1 = bn1, features.4..7 = layer1..4, l1 and l2 the head), each under any of the
prefixes and nestings below. A `.pth` is read by torch's restricted unpickler: a pickle that would run code is refused.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hnm.encoder.resnet import Encoder, EncoderConfig, build_encoder
from hnm.engine.state import State, load_weights, require_file
from shards.errors import InputError

log = logging.getLogger(__name__)


NESTINGS = ("state_dict", "model", "encoder")
PREFIXES = ("module.", "encoder.", "backbone.", "model.")
# torch's Sequential(*list(resnet.children())[:-1]): 2 is the ReLU, 3 the max pool, 8 the average pool
NAME_OF_FEATURES_INDEX = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
ENCODER_KEY = re.compile(r"(conv1|bn1|layer\d+)\.")
NORM_KEY = re.compile(r"(bn\d|downsample\.1)\.(weight|bias|running_mean|running_var|num_batches_tracked)$")


def load_encoder(path: Path, config: EncoderConfig) -> Encoder:
    """Build the encoder of `config` and fill it from our weights or a foreign checkpoint; what is ignored is logged.

    Args:
        path: *.safetensors, or a torch checkpoint (*.pth, *.pt, ...).
        config: the encoder that the file must fit.

    Returns:
        The encoder, on the CPU, in training mode.

    Raises:
        InputError: the file cannot be read safely, or an encoder tensor is missing, mis-shaped, not finite or too much.
    """
    state = load_weights(path)[0] if path.suffix == ".safetensors" else _load_pickled(path)
    encoder = build_encoder(config)
    matched, ignored = match_encoder(state, encoder, path)
    encoder.load_state_dict(matched, strict=False)  # match_encoder has checked; old files lack num_batches_tracked
    log.info("%s: %d encoder tensors taken, %d others ignored: %s", path, len(matched), len(ignored), ignored[:4])
    num_norm = sum(bool(NORM_KEY.search(name)) for name in ignored)
    if num_norm:
        log.warning(
            "%s: %d batch-norm tensors ignored because encoder.norm=instance: the features differ from those "
            "that this file was trained for (encoder.norm=batch keeps them)",
            path,
            num_norm,
        )
    return encoder


def match_encoder(state: Mapping[str, Tensor], encoder: Encoder, path: Path) -> tuple[State, list[str]]:
    """Sort a checkpoint's tensors into the encoder's, by name, and the ignored rest.

    Args:
        state: the file's named tensors, in any of the styles that the module's docstring lists.
        encoder: what is to be filled.
        path: the file, for the messages.

    Returns:
        The encoder's tensors under the encoder's names, and the names of those ignored: classifier, projection head,
        batch-norm tensors under instance norm, anything that is no part of a ResNet.

    Raises:
        InputError: see `load_encoder`.
    """
    expected = encoder.state_dict()
    matched: State = {}
    ignored: list[str] = []
    too_many: list[str] = []
    for key, tensor in state.items():
        name = torchvision_name(key)
        if name in matched:
            raise InputError(
                f"{path}: more than one tensor is {name!r} (the second is {key!r}). Save the encoder's weights alone"
            )
        if name in expected:
            matched[name] = tensor
        elif ENCODER_KEY.match(name) and not NORM_KEY.search(name):
            too_many.append(key)
        else:
            ignored.append(key)
    _require_fit(matched, expected, too_many, encoder.config, path)
    return matched, ignored


def torchvision_name(key: str) -> str:
    """Return the name that a checkpoint's tensor has in torchvision's ResNet (unknown names only lose their prefix)."""
    while prefix := next((prefix for prefix in PREFIXES if key.startswith(prefix)), None):
        key = key.removeprefix(prefix)
    parts = key.split(".", 2)
    if parts[0] == "features" and len(parts) == 3 and parts[1] in NAME_OF_FEATURES_INDEX:
        return f"{NAME_OF_FEATURES_INDEX[parts[1]]}.{parts[2]}"
    return key


def _require_fit(matched: State, expected: State, too_many: list[str], config: EncoderConfig, path: Path) -> None:
    """Refuse what would leave part of the encoder at random, cut a deeper network short, or load NaN."""
    chosen = f"encoder.architecture={config.architecture}, stem={config.stem}, width={config.width}, norm={config.norm}"
    missing = [name for name in expected if name not in matched and not name.endswith("num_batches_tracked")]
    if missing:
        remedy = "Choose the encoder section that the file was made with"
        if all(NORM_KEY.search(name) for name in missing):
            remedy = "The file has no batch-norm tensors: set encoder.norm=instance"
        raise InputError(f"{path}: {_first(missing)} missing for {chosen}. {remedy}")
    misshaped = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
        for name, tensor in matched.items()
        if tensor.shape != expected[name].shape
    ]
    if misshaped:
        raise InputError(f"{path}: shapes differ from {chosen}: {_first(misshaped)}. Set encoder.* as in the file")
    if too_many:
        raise InputError(f"{path}: {_first(too_many)} too many for {chosen}. Set encoder.architecture as in the file")
    broken = [name for name, tensor in matched.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(f"{path}: NaN or infinity in {_first(broken)}. Take an earlier checkpoint")


def _first(names: list[str]) -> str:
    return f"{len(names)} tensors ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _load_pickled(path: Path) -> State:
    """Read a torch checkpoint without running any code that it may hold, and find the state dict in it."""
    require_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a strange file raises anything: UnpicklingError, OSError, RuntimeError, KeyError...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path}: refused, not a whole checkpoint of plain tensors ({reason}). If you trust its source, load it "
            f"there and save its state_dict() alone, best as safetensors"
        ) from error
    state = _unnest(content)
    if not state:
        raise InputError(f"{path}: no state dict found, also not under {', '.join(NESTINGS)}. Save state_dict() alone")
    return state


def _unnest(content: Any) -> State:
    """Return the named tensors of a checkpoint; go into `NESTINGS` where they hold dictionaries."""
    for _ in range(4):  # a stranger's dictionary may hold itself
        if not isinstance(content, Mapping):
            break
        inner = next((content[key] for key in NESTINGS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        content = inner
    return {}


