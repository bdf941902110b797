"""What of an encoder a contrastive training trains, and with which optimizer: pretraining and fine-tuning alike.

    all          every parameter                    last_blocks  the last few blocks and what comes after them
    norm_bias    normalisation layers and biases    lora         small matrices beside frozen layers (hnm/encoder/lora.py)

The projection head is always trained. What is frozen has no gradient and no optimizer state, and is not in checkpoints. A batch
norm outside what is trained as a whole (all, the last blocks) keeps its running statistics and normalises by them: a frozen
network computes the same in training and in embedding.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from hnm.encoder.blocks import blocks_of, depths_of, recompute_blocks
from hnm.encoder.contrastive_model import ContrastiveModel
from hnm.encoder.lora import (
    LoraConfig,
    add_adapters,
    choose_layers,
    config_of,
    fold_adapters,
    is_of_adapter,
    never_called,
)
from hnm.encoder.networks import Encoder, network_of
from hnm.engine.engine import RATE_SCALE, Engine, MakeOptimizer
from hnm.engine.step import Computed, Progress
from shards.errors import InputError
from shards.seeding import seeded_torch

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
Compute = Callable[[int, Any], tuple[str, Computed]]
HIGH_RATE = 5e-3  # of AdamW; the default rate of fine-tuning is SGD's
PROBE_PX = 224  # of an encoder that takes any side


class PartsConfig(BaseModel):
    """What is trained, and how: the keys that pretraining and fine-tuning share."""

    model_config = ConfigDict(extra="forbid")

    train: Literal["all", "last_blocks", "norm_bias", "lora"] = Field(
        "all",
        description="what of the encoder is trained: all; last_blocks: the last num_blocks and what comes after them; norm_bias: "
        "normalisation layers and biases; lora: small matrices beside its frozen layers",
    )
    num_blocks: int = Field(2, ge=1, description="blocks that train=last_blocks trains")
    lora: LoraConfig = Field(default_factory=LoraConfig, description="the adapters of train=lora")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="a block's learning rate is this times the next one's; 1 = one rate; 0.65 to 0.9 for ViTs"
    )
    rate_warmup_steps: int = Field(
        0, ge=0, description="optimizer steps, of pretraining and of each round, over which the rate rises from zero"
    )
    gradient_checkpointing: bool = Field(
        False,
        description="keep the inputs of blocks only and compute the rest again in the backward pass: less memory, a third more "
        "time, the same gradients; not with batch norms that are trained",
    )


def choose_parts(model: ContrastiveModel, config: PartsConfig, key: str, seed: int) -> str:
    """Freeze what is not trained, with adapters where they are asked for; return what there is to tell of it, in words.

    Adapters that a file brought along are gone on with by train=lora of the same adapters, and folded by the others.

    Args:
        key: of the section, for messages.
        seed: adapters are drawn from it.

    Raises:
        InputError: the encoder has no such parts, or the file's adapters are others.
    """
    encoder, network = model.encoder, network_of(model.encoder)
    folded = fold_adapters(network) if config.train != "lora" else 0
    if config.train == "lora":
        _add_or_keep_adapters(encoder, config.lora, f"{key}.lora", seed)
    if config.train != "all":
        trained = names_of(network, config, key)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in trained)
        fixed = _fixed_norms(network, config)
        model.fixed_norms = frozenset(name for name, module in model.named_modules() if module in fixed)
        model.train(model.training)
    if config.gradient_checkpointing:
        if any(isinstance(module, BATCH_NORMS) and name not in model.fixed_norms for name, module in model.named_modules()):
            raise InputError(
                f"{key}.gradient_checkpointing: batch norms would count each batch twice. Set it to false, or {key}.train to lora"
            )
        if not recompute_blocks(network):
            raise InputError(f"{key}.gradient_checkpointing: this encoder has no blocks to compute again. Set it to false")
    told = [_in_words(network, config, folded)] if folded or config.train != "all" else []
    if getattr(config, "optimizer", "") == "adamw" and (rate := getattr(config, "lr", 0.0)) > HIGH_RATE:
        told.append(f"warning: {key}.lr is {rate:g}, high for {key}.optimizer=adamw: 1e-4 is usual, 1e-3 for lora")
    return "; ".join(told)


def names_of(network: nn.Module, config: PartsConfig, key: str) -> set[str]:
    """Return the names of the encoder's parameters that are trained.

    Raises:
        InputError: there are none, or not so many blocks.
    """
    if config.train == "last_blocks":
        depths, num_blocks = depths_of(network), len(blocks_of(network))
        if num_blocks <= config.num_blocks:
            raise InputError(
                f"{key}.num_blocks is {config.num_blocks}, but this encoder has {num_blocks} blocks. Set it to less, or "
                f"{key}.train to all"
            )
        return {name for name, depth in depths.items() if depth > num_blocks - config.num_blocks}
    if config.train == "norm_bias":
        of_norms = {f"{at}.{name}" for at, norm in _norms(network) for name, _ in norm.named_parameters(recurse=False)}
        found = {name for name, _ in network.named_parameters() if name in of_norms or name.split(".")[-1] == "bias"}
        if not found:
            raise InputError(
                f"{key}.train is norm_bias, but this encoder has neither biases nor norms with parameters (encoder.norm=instance "
                f"has none). Set {key}.train to last_blocks or all"
            )
        return found
    return {name for name, _ in network.named_parameters() if config.train == "all" or is_of_adapter(name)}


def optimizer_of(model: ContrastiveModel, config: PartsConfig, make: Callable[[Any], torch.optim.Optimizer]) -> MakeOptimizer:
    """Return `make` for the engine: it gets groups of one rate each, where rates or weight decay are to differ.

    Args:
        make: gets parameters, or torch's groups of them, and returns the optimizer.
    """
    scales = rate_scales(network_of(model.encoder), config.layer_decay)
    plain_for_short = getattr(config, "optimizer", "") == "adamw"

    def make_grouped(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for parameter in parameters:
            decays = parameter.dim() > 1 or not plain_for_short
            groups.setdefault((scales.get(parameter, 1.0), decays), []).append(parameter)
        if list(groups) in ([], [(1.0, True)]):
            return make(groups.get((1.0, True), []))
        told = [
            {"params": group, RATE_SCALE: scale, **({} if decays else {"weight_decay": 0.0})}
            for (scale, decays), group in groups.items()
        ]
        return make(told)

    return make_grouped


def rate_scales(network: nn.Module, layer_decay: float) -> dict[nn.Parameter, float]:
    """Return what the learning rate of each parameter is multiplied by: layer_decay ** (blocks above it)."""
    depths, end = depths_of(network), len(blocks_of(network)) + 1
    return {parameter: layer_decay ** (end - depths[name]) for name, parameter in network.named_parameters()}


def warmed_up(rate: float, num_steps: int, config: PartsConfig) -> float:
    """Return the rate of a step before which `num_steps` were taken in this phase."""
    if num_steps >= config.rate_warmup_steps:
        return rate
    return rate * (num_steps + 1) / config.rate_warmup_steps


def at_warmed_rate(engine: Engine, rate: float, progress: Progress, config: PartsConfig, compute: Compute) -> Compute:
    """Return `compute` with the rate of its step set before it, if a warm-up is asked for; else the rate is set already."""
    if not config.rate_warmup_steps:
        return compute

    def compute_at_rate(number: int, batch: Any) -> tuple[str, Computed]:
        engine.set_rate(warmed_up(rate, progress.num_steps, config))
        return compute(number, batch)

    return compute_at_rate


def _add_or_keep_adapters(encoder: Encoder, config: LoraConfig, key: str, seed: int) -> None:
    network = network_of(encoder)
    wanted = config.model_copy(update={"layers": choose_layers(network, config.layers, key)})
    present = config_of(network)
    if present is None:
        with seeded_torch(seed, "lora"):
            add_adapters(network, config, key)
    elif present != wanted:
        raise InputError(
            f"{key}: the encoder's file has adapters of {_of(present)}, the settings say {_of(wanted)}. Set {key}.* as in the "
            "file, or fold them: hnm export --merge"
        )
    side = encoder.input.spec.side_px or PROBE_PX
    was_training, parameter = encoder.training, next(encoder.parameters())
    black = torch.zeros(1, 3, side, side, device=parameter.device, dtype=parameter.dtype)
    with torch.no_grad():
        idle = never_called(network, lambda: encoder.eval()(black))
    encoder.train(was_training)
    if idle:
        raise InputError(
            f"{key}.layers: the network takes the weights of {', '.join(idle[:3])} without calling these layers: an adapter "
            f"would do nothing. Set {key}.layers to others"
        )


def _of(lora: LoraConfig) -> str:
    return f"rank {lora.rank}, alpha {lora.alpha:g}, dropout {lora.dropout:g} on {len(lora.layers or [])} layers"


def _norms(network: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in network.named_modules() if "Norm" in type(module).__name__]


def _fixed_norms(network: nn.Module, config: PartsConfig) -> set[nn.Module]:
    """Return the batch norms whose running statistics stay: all but those of the blocks that are trained as a whole."""
    norms = [(name, module) for name, module in network.named_modules() if isinstance(module, BATCH_NORMS)]
    if config.train != "last_blocks":
        return {module for _, module in norms}
    return {module for _, module in norms if not any(parameter.requires_grad for parameter in module.parameters())}


def _in_words(network: nn.Module, config: PartsConfig, folded: int) -> str:
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    trained, total = sum(size for size, is_trained in sizes if is_trained), sum(size for size, _ in sizes)
    lora = config_of(network)
    how = {
        "last_blocks": f"the last {config.num_blocks} of {len(blocks_of(network))} blocks",
        "norm_bias": "norms and biases",
        "lora": f"adapters of rank {config.lora.rank} on {len(lora.layers or []) if lora else 0} layers",
    }.get(config.train, "all")
    told = f"trained of the encoder: {how}, {trained:,} of {total:,} parameters, and the projection head"
    return f"{told}; {folded} adapters of the file were folded" if folded else told
