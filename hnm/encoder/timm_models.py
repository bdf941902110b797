"""timm's networks: their description, and their construction without weights. timm is imported only when called."""

import difflib
import importlib.util
import sys
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from hnm.encoder.spec import InputSpec, NetworkSpec
from shards.errors import InputError

NEEDS_TIMM = "{} needs timm, which is not installed: pip install 'hnm[encoders]'"
# What a description may not say: they would read files, or reach the network, where only a network is to be built.
NOT_ARGUMENTS = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}

PERMISSIVE, NO_DERIVATIVES = ("apache-2.0", "mit", "bsd-3-clause"), ("cc-by-nc-nd-4.0", "cc-by-nd-4.0")


def import_timm(wanted_by: str) -> ModuleType:
    """Return timm.

    Args:
        wanted_by: the encoder's name, for the message.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("timm") is None or importlib.util.find_spec("torchvision") is None:
        raise InputError(NEEDS_TIMM.format(wanted_by))
    _let_torchvision_load()
    import timm

    return timm


@cache
def _let_torchvision_load() -> None:
    """Name the two operators that torchvision expects of its compiled part, where that does not load beside this torch.

    A CPU build of torch beside PyPI's torchvision, which is built for CUDA: the import alone would fail ("operator
    torchvision::nms does not exist"), and timm imports torchvision for its transforms, without ever calling these.
    """
    if "torchvision" in sys.modules:
        return
    found = importlib.util.find_spec("torchvision")
    folder = Path(found.origin).parent if found and found.origin else Path()
    try:
        for library in folder.glob("_C.*"):
            torch.ops.load_library(library)
    except OSError:
        operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(operators)  # it takes its operators along when it is collected


_KEPT: list[torch.library.Library] = []


def spec_of_timm(architecture: str, name: str, side_px: int | None) -> NetworkSpec:
    """Return the description of a timm network as timm itself gives it.

    Args:
        architecture: timm's name, such as resnet50 or resnet50.a1_in1k.
        name: of the encoder, as in encoder.name.
        side_px: the side that the user wants; None: the network's own.

    Raises:
        InputError: timm knows no such network, or is not installed.
    """
    timm = import_timm(name)
    _require_known(timm, architecture, name)
    own = timm.get_pretrained_cfg(architecture)
    own = own.to_dict() if own is not None else {}
    return NetworkSpec(
        name=name,
        source="timm",
        network=architecture,
        arguments=arguments_for_side(own, side_px, {}),
        input=input_of_timm(own),
        **licence_of_timm(own),
    )


def licence_of_timm(pretrained_cfg: dict[str, Any]) -> dict[str, Any]:
    """Return licence and may_be_passed_on of a timm network's weights."""
    licence = str(pretrained_cfg.get("license") or "")
    known = dict.fromkeys(PERMISSIVE, True) | dict.fromkeys(NO_DERIVATIVES, False)
    return {"licence": licence, "may_be_passed_on": known.get(licence.lower())}


def input_of_timm(pretrained_cfg: dict[str, Any]) -> InputSpec:
    """Return what a timm network wants of its input; timm's central crop is left out, it would hide a patch's margin."""
    from timm.data import resolve_data_config

    found = resolve_data_config(pretrained_cfg=pretrained_cfg)
    return InputSpec(
        side_px=found["input_size"][-1],
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
        interpolation="bilinear" if found["interpolation"] == "bilinear" else "bicubic",
    )


def arguments_for_side(pretrained_cfg: dict[str, Any], side_px: int | None, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with which a network of fixed side (a ViT) takes another: its position embedding is interpolated."""
    is_other = side_px is not None and side_px != pretrained_cfg.get("input_size", (3, 224, 224))[-1]
    if is_other and pretrained_cfg.get("fixed_input_size"):
        return {**arguments, "dynamic_img_size": True}
    return arguments


def build_timm(spec: NetworkSpec) -> nn.Module:
    """Return a timm network with random weights and without its classifier.

    Raises:
        InputError: timm does not know the network, refuses an argument, or is not installed.
    """
    timm = import_timm(spec.name)
    _require_known(timm, spec.network, spec.name)
    arguments = {key: value for key, value in spec.arguments.items() if key != "num_classes"}
    if refused := NOT_ARGUMENTS & arguments.keys():
        raise InputError(f"{spec.name}: its description gives {', '.join(sorted(refused))}, which no network is built with")
    if isinstance(layer := arguments.get("mlp_layer"), str):
        arguments["mlp_layer"] = getattr(timm.layers, layer)
    if (epsilon := arguments.pop("norm_eps", None)) is not None:  # of transformers' networks, whose config.json says it
        arguments["norm_layer"] = partial(timm.layers.LayerNorm, eps=epsilon)
    try:
        network: nn.Module = timm.create_model(spec.network, pretrained=False, num_classes=0, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{spec.name}: timm {timm.__version__} does not build {spec.network} ({reason})") from error
    return network


def _require_known(timm: ModuleType, architecture: str, name: str) -> None:
    if ":" in architecture or "/" in architecture or not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture.partition(".")[0], timm.list_models(), n=1, cutoff=0.5)
        nearest = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(f"{name}: timm {timm.__version__} knows no network {architecture!r}.{nearest}")
