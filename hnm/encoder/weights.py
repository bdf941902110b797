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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hnm.encoder.adapter_files import Base, find_base, require_base, told_of_adapters
from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.foreign import ForeignEncoder
from hnm.encoder.lora import LoraConfig, add_adapters, config_of, is_of_adapter
from hnm.encoder.networks import Encoder, build_encoder, network_of
from hnm.encoder.resnet import ResNet
from hnm.encoder.spec import InputSpec, NetworkSpec, told_in
from hnm.encoder.transformers_layout import as_timm, is_of_transformers
from hnm.engine.state import State, load_weights, require_file
from shards.errors import InputError
from shards.exchange.torch_file import load_plain

log = logging.getLogger(__name__)


NESTINGS = ("state_dict", "model", "encoder")
PREFIXES = ("module.", "encoder.", "backbone.", "model.")
OURS = "encoder.network."  # in our own files, of a network that is not ours
HEADS = ("head", "head_dist", "fc", "classifier", "projection", "mask_token")  # what a classifier and a training leave behind
OTHER_SECTION = "Set encoder.* (architecture, stem, width, norm) as in the file"
OTHER_NETWORK = "The file is of another network, or of other arguments: set encoder.name as it was made"
# torch's Sequential(*list(resnet.children())[:-1]): 2 is the ReLU, 3 the max pool, 8 the average pool
NAME_OF_FEATURES_INDEX = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
ENCODER_KEY = re.compile(r"(conv1|bn1|layer\d+)\.")
NORM_KEY = re.compile(r"(bn\d|downsample\.1)\.(weight|bias|running_mean|running_var|num_batches_tracked)$")


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights.

    Attributes:
        path: where it was read, for messages.
        state: its named tensors, nested dictionaries opened.
        network: what it says of a network that is not ours; None: nothing.
        wanted: what it says of the input; None: nothing.
        lora: the adapters that it holds; None: none.
        base: the weights that it leaves out, with what it says of them; None: it holds all.
    """

    path: Path
    state: State
    network: NetworkSpec | None = None
    wanted: InputSpec | None = None
    lora: LoraConfig | None = None
    base: "tuple[Base, Checkpoint] | None" = None


def read_checkpoint(path: Path, config: EncoderConfig) -> Checkpoint:
    """Read our weights or a foreign checkpoint.

    Args:
        path: *.safetensors, or a torch checkpoint (*.pth, *.pt, ...).
        config: the encoder that the file must fit.

    Raises:
        InputError: the file cannot be read safely, or says that it is of another network.
    """
    if path.suffix != ".safetensors":
        return Checkpoint(path, _load_pickled(path))
    state, metadata = load_weights(path)
    network, wanted = told_in(metadata, str(path))
    if network is not None and network.name != config.name:
        given = config.name or f"null ({config.architecture})"
        raise InputError(f"{path}: holds {network.name}, but encoder.name is {given}. Set encoder.name={network.name}")
    lora, base = told_of_adapters(metadata, path)
    left_out = (base, read_checkpoint(find_base(path, base), config)) if base else None
    return Checkpoint(path, state, network, wanted, lora, left_out)


def load_encoder(path: Path, config: EncoderConfig) -> Encoder:
    """Build the encoder of `config` and fill it from our weights or a foreign checkpoint; what is ignored is logged.

    Returns:
        The encoder, on the CPU, in training mode.

    Raises:
        InputError: the file cannot be read safely, or an encoder tensor is missing, mis-shaped, not finite or too much.
    """
    checkpoint = read_checkpoint(path, config)
    encoder = build_encoder(config, checkpoint.network, checkpoint.wanted, weights_follow=True)
    fill_encoder(encoder, checkpoint)
    return encoder


def fill_encoder(encoder: Encoder, checkpoint: Checkpoint) -> None:
    """Give an encoder a checkpoint's weights.

    Raises:
        InputError: a tensor is missing, mis-shaped, not finite or too much.
    """
    if checkpoint.base is None:
        whole = {name: tensor for name, tensor in checkpoint.state.items() if not (checkpoint.lora and is_of_adapter(name))}
        _fill_network(encoder, whole, checkpoint.path)
    else:
        base, left_out = checkpoint.base
        fill_encoder(encoder, left_out)
        require_base(network_of(encoder), base, checkpoint.path, left_out.path)
    if checkpoint.lora is not None:
        _fill_adapters(encoder, checkpoint.state, checkpoint.lora, checkpoint.path)


def _fill_adapters(encoder: Encoder, state: State, lora: LoraConfig, path: Path) -> None:
    """Hang a file's adapters on the network, or give those that a base has brought along the file's values."""
    network = network_of(encoder)
    if config_of(network) is None:
        add_adapters(network, lora, f"{path}: lora")
    prefix = OURS if isinstance(encoder, ForeignEncoder) else "encoder."
    expected = {name: tensor for name, tensor in network.state_dict().items() if is_of_adapter(name)}
    adapters = {name: state[prefix + name] for name in expected if prefix + name in state}
    _require_fit(adapters, expected, [], "the adapters that its metadata tells of", "It is damaged: copy it again", path)
    network.load_state_dict(adapters, strict=False)


def _fill_network(encoder: Encoder, state: State, path: Path) -> None:
    if isinstance(encoder, ForeignEncoder):
        encoder.network.load_state_dict(match_network(state, encoder, path), strict=False)
        return
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


def match_network(state: Mapping[str, Tensor], encoder: ForeignEncoder, path: Path) -> State:
    """Return a checkpoint's tensors under the names of a network that is not ours; a classifier and our head are left out.

    Raises:
        InputError: see `load_encoder`.
    """
    expected = encoder.network.state_dict()
    if is_of_transformers(state):
        state = as_timm(state, expected)
    matched: State = {}
    too_many, ignored = [], []
    for key, tensor in state.items():
        name = key.removeprefix(OURS) if key.startswith(OURS) else _without_prefix(key, expected)
        if name in expected:
            matched[name] = tensor
        elif name.partition(".")[0] in HEADS:
            ignored.append(key)
        else:
            too_many.append(key)
    _require_fit(matched, expected, too_many, f"encoder.name={encoder.spec.name}", OTHER_NETWORK, path)
    log.info("%s: %d tensors taken, %d of a head ignored: %s", path, len(matched), len(ignored), ignored[:4])
    return matched


def _without_prefix(key: str, expected: State) -> str:
    """Return a key without as many of `PREFIXES` as it takes to be a name of the network."""
    name = key
    while name not in expected:
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            break
        name = name.removeprefix(prefix)
    return name


def match_encoder(state: Mapping[str, Tensor], encoder: ResNet, path: Path) -> tuple[State, list[str]]:
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
    config = encoder.config
    chosen = f"encoder.architecture={config.architecture}, stem={config.stem}, width={config.width}, norm={config.norm}"
    if config.name is not None:
        _require_fit(matched, expected, too_many, f"encoder.name={config.name}", OTHER_NETWORK, path)
    else:
        _require_fit(matched, expected, too_many, chosen, OTHER_SECTION, path)
    return matched, ignored


def torchvision_name(key: str) -> str:
    """Return the name that a checkpoint's tensor has in torchvision's ResNet (unknown names only lose their prefix)."""
    while prefix := next((prefix for prefix in PREFIXES if key.startswith(prefix)), None):
        key = key.removeprefix(prefix)
    parts = key.split(".", 2)
    if parts[0] == "features" and len(parts) == 3 and parts[1] in NAME_OF_FEATURES_INDEX:
        return f"{NAME_OF_FEATURES_INDEX[parts[1]]}.{parts[2]}"
    return key


def _require_fit(matched: State, expected: State, too_many: list[str], chosen: str, remedy: str, path: Path) -> None:
    """Refuse what would leave part of the encoder at random, cut a deeper network short, or load NaN."""
    missing = [name for name in expected if name not in matched and not name.endswith("num_batches_tracked")]
    if missing:
        if remedy == OTHER_SECTION and all(NORM_KEY.search(name) for name in missing):
            remedy = "The file has no batch-norm tensors: set encoder.norm=instance"
        raise InputError(f"{path}: {_first(missing)} missing for {chosen}. {remedy}")
    misshaped = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
        for name, tensor in matched.items()
        if tensor.shape != expected[name].shape
    ]
    if misshaped:
        raise InputError(f"{path}: shapes differ from {chosen}: {_first(misshaped)}. {remedy}")
    if too_many:
        raise InputError(f"{path}: {_first(too_many)} too many for {chosen}. {remedy}")
    broken = [name for name, tensor in matched.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(f"{path}: NaN or infinity in {_first(broken)}. Take an earlier checkpoint")


def _first(names: list[str]) -> str:
    return f"{len(names)} tensors ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _load_pickled(path: Path) -> State:
    """Read a torch checkpoint without running any code that it may hold, and find the state dict in it."""
    require_file(path)
    content = load_plain(
        path, "If you trust its source, load it there and save its state_dict() alone, best as safetensors"
    )
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


