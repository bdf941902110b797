"""LoRA: a linear layer W x becomes W x + alpha / rank * B A x, and only the small A and B are trained.

    x (n, in) ──W (frozen)──────────────────────▶ + ──▶ (n, out)
       └──dropout──A (rank, in)──B (out, rank)────┘          B starts at zero: at first nothing changes

Source: Hu et al. 2021, arXiv 2106.09685. A convolution without groups is a linear layer of its window: A has the window's shape,
B is 1 x 1, as the package peft has it. Adapters hang on the layers that are there, whose own tensors keep their names.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from shards.errors import InputError

A, B, DROPOUT = "lora_A", "lora_B", "lora_dropout"


class LoraConfig(BaseModel):
    """The section `lora` of a training: which layers get adapters, and how large they are."""

    model_config = ConfigDict(extra="forbid")

    rank: int = Field(8, ge=1, description="numbers between A and B: a layer gets rank * (inputs + outputs) parameters")
    alpha: float = Field(16.0, gt=0, description="what B A x is multiplied by, times the rank: alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of A's inputs that are set to zero in training")
    layers: list[str] | None = Field(
        None,
        description="names of layers or ends of them, such as [attn.qkv, attn.proj]; null = every linear layer and every "
        "1x1 convolution of the encoder",
    )


def add_adapters(network: nn.Module, config: LoraConfig, key: str) -> list[str]:
    """Hang fresh adapters on the layers that `config` chooses, drawn from torch's generator; return the layers' names.

    Args:
        key: of the section, for messages.

    Raises:
        InputError: an entry of `layers` names none, or there is no layer to choose.
    """
    names = choose_layers(network, config.layers, key)
    for name in names:
        _hang(network.get_submodule(name), config)
    return names


def choose_layers(network: nn.Module, wanted: list[str] | None, key: str) -> list[str]:
    """Return the names of the layers that get adapters, in the network's order.

    Raises:
        InputError: see `add_adapters`.
    """
    able = {name: layer for name, layer in network.named_modules() if _is_able(layer)}
    if wanted is None:
        chosen = [name for name, layer in able.items() if isinstance(layer, nn.Linear) or layer.kernel_size == (1, 1)]
    else:
        chosen = [name for name in able if any(_ends_with(name, entry) for entry in wanted)]
    unknown = [entry for entry in wanted or [] if not any(_ends_with(name, entry) for name in able)]
    if unknown or not chosen:
        what = f"names no layer that can have an adapter ({', '.join(unknown)})" if unknown else "finds no layer"
        raise InputError(
            f"{key}.layers {what}: linear layers and convolutions without groups can. This encoder has, for example, "
            f"{', '.join(list(able)[-4:]) or 'none'}. Set {key}.layers to names or ends of names"
        )
    return chosen


def adapters_of(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that have adapters, by name."""
    return {name: layer for name, layer in network.named_modules() if hasattr(layer, A)}


def config_of(network: nn.Module) -> LoraConfig | None:
    """Return what the adapters of a network are, with the full names of their layers; None: it has none."""
    layers = adapters_of(network)
    if not layers:
        return None
    first: Any = next(iter(layers.values()))
    return LoraConfig(
        rank=first.lora_A.weight.shape[0],
        alpha=first.lora_scale * first.lora_A.weight.shape[0],
        dropout=first.lora_dropout.p,
        layers=list(layers),
    )


def fold_adapters(network: nn.Module) -> int:
    """Add B A of every adapter to its layer's weight and take the adapters off; return how many there were."""
    layers = adapters_of(network)
    for layer in layers.values():
        with torch.no_grad():
            layer.weight.copy_(layer.weight.double() + low_rank(layer).double())  # type: ignore[operator]
        for name in (A, B, DROPOUT):
            delattr(layer, name)
        layer.lora_hook.remove()  # type: ignore[operator,union-attr]
        del layer.lora_hook, layer.lora_scale
    return len(layers)


def low_rank(layer: Any) -> Tensor:
    """Return alpha / rank * B A in the shape of the layer's weight."""
    product = layer.lora_B.weight.double().flatten(1) @ layer.lora_A.weight.double().flatten(1)
    scaled: Tensor = layer.lora_scale * product.reshape(layer.weight.shape)
    return scaled


def is_of_adapter(name: str) -> bool:
    """Return whether a tensor of that name belongs to an adapter."""
    return name.split(".")[-2:-1] in ([A], [B])


def never_called(network: nn.Module, run: Any) -> list[str]:
    """Return the adapters that take no part in a forward pass: a network may take a layer's weight and never call the layer.

    Args:
        run: does a forward pass.
    """
    waiting = adapters_of(network)
    called: set[str] = set()
    hooks = [layer.register_forward_hook(lambda *_, name=name: called.add(name)) for name, layer in waiting.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name in waiting if name not in called]


def _is_able(layer: nn.Module) -> bool:
    """Exactly these classes: what is derived from them may pad or multiply otherwise (timm's Conv2dSame)."""
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros"
    return type(layer) is nn.Linear


def _ends_with(name: str, entry: str) -> bool:
    return name == entry or name.endswith(f".{entry}")


def _hang(layer: Any, config: LoraConfig) -> None:
    """Give a layer its A, B and dropout, and a hook that adds what they compute."""
    like: dict[str, Any] = {"bias": False, "device": layer.weight.device, "dtype": layer.weight.dtype}
    if isinstance(layer, nn.Conv2d):
        window: Iterable[Any] = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        layer.lora_A = nn.Conv2d(layer.in_channels, config.rank, *window, **like)
        layer.lora_B = nn.Conv2d(config.rank, layer.out_channels, 1, **like)
    else:
        layer.lora_A = nn.Linear(layer.in_features, config.rank, **like)
        layer.lora_B = nn.Linear(config.rank, layer.out_features, **like)
    nn.init.kaiming_uniform_(layer.lora_A.weight, a=math.sqrt(5))
    nn.init.zeros_(layer.lora_B.weight)
    layer.lora_dropout = nn.Dropout(config.dropout)
    layer.lora_scale = config.alpha / config.rank
    layer.lora_hook = layer.register_forward_hook(_add_low_rank)


def _add_low_rank(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    added: Tensor = layer.lora_scale * layer.lora_B(layer.lora_A(layer.lora_dropout(inputs[0])))
    return output + added
