"""ViT and DINOv2 weights in the layout of the library transformers, as networks of timm.

    config.json               ──▶ timm's arguments         preprocessor_config.json ──▶ InputSpec
    embeddings.*, encoder.layer.*, layernorm.*  ──▶ patch_embed.*, blocks.*, norm.*

Every figure is the repository's own. The feature is the class token after the last norm. A position embedding of another side
than the encoder's is interpolated here, once, as transformers does it at each call (bicubic, antialiased with registers only).
Sources: transformers 4.57.3, models/vit/modeling_vit.py, models/dinov2/modeling_dinov2.py (Dinov2Embeddings, Dinov2SwiGLUFFN),
models/dinov2_with_registers/modeling_dinov2_with_registers.py.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hnm.encoder.spec import InputSpec

MODEL_TYPES = ("vit", "dinov2", "dinov2_with_registers")
BASE = "vit_base_patch16_224"  # timm's plain ViT; every size of it is an argument
BLOCK = {
    "layernorm_before": "norm1", "norm1": "norm1", "layernorm_after": "norm2", "norm2": "norm2",
    "attention.output.dense": "attn.proj", "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2", "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2", "mlp.weights_in": "mlp.fc1", "mlp.weights_out": "mlp.fc2",
}  # fmt: skip
OTHERS = {
    "embeddings.cls_token": "cls_token", "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "reg_token", "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight", "layernorm.bias": "norm.bias",
}  # fmt: skip
LEFT = ("pooler.", "embeddings.mask_token", "classifier.", "decoder.")  # what a head and a training leave behind
IN_BLOCK = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias|lambda1)$")
WRAPPED = re.compile(r"^(?:.*\.)?((?:embeddings|encoder\.layer|layernorm|pooler|classifier|decoder)\.)")
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # PIL's numbers


def arguments_of(config: Mapping[str, Any], side_px: int | None) -> dict[str, Any]:
    """Return timm's arguments for `BASE` of a network that a config.json describes.

    Args:
        config: of one of `MODEL_TYPES`.
        side_px: what the network is to see; None: what it was trained at.

    Raises:
        KeyError, TypeError: the file lacks a figure.
        ValueError: it describes what timm's ViT is not.
    """
    dim, kind = int(config["hidden_size"]), config["model_type"]
    if config.get("hidden_act", "gelu") != "gelu" or config.get("num_channels", 3) != 3:
        raise ValueError(f"hidden_act {config.get('hidden_act')}, num_channels {config.get('num_channels')}: not gelu and 3")
    if not config.get("apply_layernorm", True):
        raise ValueError("apply_layernorm is false")
    arguments: dict[str, Any] = {
        "img_size": side_px or int(config["image_size"]),
        "patch_size": int(config["patch_size"]),
        "embed_dim": dim,
        "depth": int(config["num_hidden_layers"]),
        "num_heads": int(config["num_attention_heads"]),
        "qkv_bias": bool(config.get("qkv_bias", True)),
        "norm_eps": float(config["layer_norm_eps"]),
    }
    if kind == "vit":
        return arguments | {"mlp_ratio": (int(config["intermediate_size"]) + 0.5) / dim}
    arguments |= {"mlp_ratio": (int(dim * config["mlp_ratio"]) + 0.5) / dim, "init_values": float(config["layerscale_value"])}
    if config.get("use_swiglu_ffn"):
        hidden = (int(int(dim * config["mlp_ratio"]) * 2 / 3) + 7) // 8 * 8
        arguments |= {"mlp_ratio": (2 * hidden + 0.5) / dim, "mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
    if kind == "dinov2_with_registers":
        arguments |= {"reg_tokens": int(config["num_register_tokens"]), "no_embed_class": True}
    return arguments


def input_of(preprocessor: Mapping[str, Any]) -> InputSpec:
    """Return what a preprocessor_config.json does to a picture; its cropping is left out, as everywhere.

    Raises:
        KeyError, TypeError, ValueError: the file lacks a figure, or says what cannot be done here.
    """
    size = preprocessor["crop_size"] if preprocessor.get("do_center_crop") else preprocessor["size"]
    sides = set(size.values()) if isinstance(size, Mapping) else {size}
    if len(sides) != 1:
        raise ValueError(f"size {size} is no square")
    if not preprocessor.get("do_rescale", True) or not preprocessor.get("do_normalize", True):
        raise ValueError("do_rescale or do_normalize is false")
    return InputSpec(
        side_px=int(sides.pop()),
        mean=tuple(map(float, preprocessor["image_mean"])),
        std=tuple(map(float, preprocessor["image_std"])),
        interpolation=RESAMPLE[int(preprocessor["resample"])],  # type: ignore[arg-type]
    )


def is_of_transformers(state: Mapping[str, Tensor]) -> bool:
    """Does a checkpoint have this layout?"""
    return any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in state)


def as_timm(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint under timm's names; what has none keeps its own.

    Args:
        state: of this layout.
        expected: the tensors of timm's network, whose position embedding says how many patches a picture has.
    """
    plain = {WRAPPED.sub(r"\1", name): tensor for name, tensor in state.items()}
    named: dict[str, Tensor] = {}
    for name, tensor in plain.items():
        found = IN_BLOCK.match(name)
        if found is None:
            if not name.startswith(LEFT):
                named[OTHERS.get(name, name)] = tensor
            continue
        block, part, kind = f"blocks.{found[1]}", found[2], found[3]
        if part.startswith("attention.attention."):
            parts = [plain.get(f"encoder.layer.{found[1]}.attention.attention.{one}.{kind}") for one in ("query", "key", "value")]
            whole = [one for one in parts if one is not None]
            named[f"{block}.attn.qkv.{kind}"] = torch.cat(whole)  # too short where one is missing: refused by its shape
        elif kind == "lambda1":
            named[f"{block}.{part.replace('layer_scale', 'ls')}.gamma"] = tensor
        else:
            named[f"{block}.{BLOCK.get(part, part)}.{kind}"] = tensor
    return _with_places(named, expected)


def _with_places(state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with its position embedding as timm's network has it: of its side, and without the class token's.

    (1, 1 + patches, dim); with register tokens timm's is (1, patches, dim), and the class token's place is added to that token.
    """
    places, wanted = state.get("pos_embed"), expected.get("pos_embed")
    if places is None or wanted is None or places.dim() != 3:
        return state
    of_class, of_patches = places[:, :1], places[:, 1:]
    is_folded = "reg_token" in expected
    was, now = (round(count**0.5) for count in (of_patches.shape[1], wanted.shape[1] - (not is_folded)))
    if was != now and was * was == of_patches.shape[1]:
        grid = of_patches.reshape(1, was, was, -1).permute(0, 3, 1, 2).float()
        grid = F.interpolate(grid, (now, now), mode="bicubic", align_corners=False, antialias=is_folded)
        of_patches = grid.permute(0, 2, 3, 1).reshape(1, now * now, -1).to(places.dtype)
    if is_folded and "cls_token" in state:
        return state | {"cls_token": state["cls_token"] + of_class, "pos_embed": of_patches}
    return state | {"pos_embed": torch.cat([of_class, of_patches], dim=1)}
