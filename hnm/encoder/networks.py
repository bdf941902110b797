"""From the section `encoder` to a network: ours, torchvision's layout, timm's, a hub's, or a user's own.

    EncoderConfig ──resolve──▶ NetworkSpec (not of ours) ──build_encoder──▶ Encoder: (n, 3, h, w) in [0, 1] -> (n, feature_dim)
"""

from typing import Any

from torch import nn

from hnm.encoder.adapter_files import LORA_KEY
from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.foreign import ForeignEncoder
from hnm.encoder.hub import spec_of_hub, spec_of_published
from hnm.encoder.lora import config_of
from hnm.encoder.registry import REGISTRY, spec_of_row
from hnm.encoder.resnet import ResNet
from hnm.encoder.spec import IMAGENET_MEAN, IMAGENET_STD, INPUT_KEY, NETWORK_KEY, InputSpec, NetworkSpec
from hnm.encoder.timm_models import arguments_for_side, spec_of_timm

Encoder = ResNet | ForeignEncoder
FIXED_224 = {"input_size": (3, 224, 224), "fixed_input_size": True}  # every network of the registry
TORCHVISION = "torchvision/"
OF_TORCHVISION: dict[str, Any] = {"norm": "batch", "stem": "imagenet", "width": 1.0}


def build_encoder(
    config: EncoderConfig,
    network: NetworkSpec | None = None,
    wanted: InputSpec | None = None,
    weights_follow: bool = False,
) -> Encoder:
    """Return an encoder with random weights (seed torch before, if they are to be the same on all ranks).

    Args:
        config: the section; what it says of the input is stronger than anything else.
        network: what a file of weights says of its network, if it is not ours; None: found by its name.
        wanted: what a file says of the input; None: the network's own.
        weights_follow: a file fills every tensor: they may be left as they are until then.

    Raises:
        InputError: there is no such network, or what it needs is not installed.
    """
    if config.name is None or config.name.startswith(TORCHVISION):
        plain = torchvision_config(config)
        return ResNet(plain, (wanted or own_input(config)).overridden(config.side_px, config.mean, config.std))
    spec = network or resolve(config)
    given = (wanted or spec.input).overridden(config.side_px, config.mean, config.std)
    return ForeignEncoder(spec.model_copy(update={"input": given}), weights_follow)


def resolve(config: EncoderConfig) -> NetworkSpec:
    """Return the description of a network that is not ours, by its name.

    Raises:
        InputError: there is no such network, or what it needs is not installed.
    """
    name = config.name or ""
    kind, _, rest = name.partition("/")
    if kind == "timm":
        return spec_of_timm(rest, name, config.side_px)
    if kind == "hf":
        return spec_of_hub(rest, name, config.side_px)
    if kind == "python":
        return NetworkSpec(name=name, source="python", network=rest)
    if not REGISTRY[name].network:
        return spec_of_published(name, config.side_px)
    spec = spec_of_row(name)
    return spec.model_copy(update={"arguments": arguments_for_side(FIXED_224, config.side_px, spec.arguments)})


def own_input(config: EncoderConfig) -> InputSpec:
    """Return the input of a ResNet: none of ours, which is trained from scratch; ImageNet's normalisation of torchvision's."""
    if config.name is None:
        return InputSpec(interpolation="bilinear")
    return InputSpec(mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bilinear")


def torchvision_config(config: EncoderConfig) -> EncoderConfig:
    """Return the section with torchvision's ResNet in the words of our own; others as they are."""
    if config.name is None or not config.name.startswith(TORCHVISION):
        return config
    return config.model_copy(update={"architecture": config.name.removeprefix(TORCHVISION), **OF_TORCHVISION})


def metadata_of(encoder: Encoder) -> dict[str, str]:
    """Return what a file of its weights must say to build the encoder again and to feed it as it was trained."""
    lora = config_of(network_of(encoder))
    adapters = {LORA_KEY: lora.model_dump_json()} if lora else {}
    if isinstance(encoder, ForeignEncoder):
        return {NETWORK_KEY: encoder.spec.model_dump_json(), **adapters}
    return {INPUT_KEY: encoder.input.spec.model_dump_json(), **adapters}


def network_of(encoder: Encoder) -> nn.Module:
    """Return the network itself, whose tensors have the names that others know."""
    return encoder.network if isinstance(encoder, ForeignEncoder) else encoder


def name_of(encoder: Encoder) -> str:
    """Return the encoder's name as in the section `encoder`."""
    return encoder.spec.name if isinstance(encoder, ForeignEncoder) else encoder.config.name or encoder.config.architecture


def describe(encoder: Encoder) -> dict[str, Any]:
    """Return what model.json says of an encoder."""
    about: dict[str, Any] = {"summary": in_words(encoder), "feature_dim": encoder.feature_dim}
    about |= {"input": encoder.input.spec.model_dump(mode="json"), "network": None}
    if isinstance(encoder, ForeignEncoder):
        about |= {"network": encoder.spec.model_dump(mode="json"), "licence_note": encoder.spec.licence_note()}
    return about


def in_words(encoder: Encoder) -> str:
    """Return what an encoder is and sees, in a line for people."""
    if isinstance(encoder, ForeignEncoder):
        name = encoder.spec.name
    else:
        config = encoder.config
        name = f"{config.name or config.architecture}, {config.norm} norm, width {config.width:g}"
    millions = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    return f"{name}: {millions:.1f} M parameters, {encoder.feature_dim} features; {encoder.input.spec}"
