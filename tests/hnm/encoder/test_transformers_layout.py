"""ViT and DINOv2 in transformers' layout: the features of a forward pass that is written out here, in their words.

Held once against transformers 4.57.3 itself (2026-11-28): small random ViT, DINOv2, with SwiGLU and with registers, at sides of
64, 96 and 40 px gave the same features to the bit.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.hub import Place, fetch
from hnm.encoder.networks import build_encoder
from hnm.encoder.transformers_layout import arguments_of, input_of
from hnm.encoder.weights import load_encoder
from hnm.model.snippet import loading_code
from shards.errors import InputError
from tests.hub import hub_of

DIM, HEADS, PATCH, EPS = 24, 2, 8, 1e-3
COMMON = {
    "hidden_size": DIM, "num_attention_heads": HEADS, "num_hidden_layers": 2, "patch_size": PATCH, "image_size": 32,
    "layer_norm_eps": EPS, "hidden_act": "gelu", "qkv_bias": True,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {**COMMON, "model_type": "vit", "intermediate_size": 50},
    "dinov2": {**COMMON, "model_type": "dinov2", "mlp_ratio": 4, "layerscale_value": 1.0},
    "swiglu": {**COMMON, "model_type": "dinov2", "mlp_ratio": 4, "layerscale_value": 1.0, "use_swiglu_ffn": True},
    "registers": {
        **COMMON, "model_type": "dinov2_with_registers", "mlp_ratio": 4, "layerscale_value": 1.0, "num_register_tokens": 3
    },
}  # fmt: skip
HIDDEN = {"vit": 50, "dinov2": 96, "swiglu": 64, "registers": 96}
MLP = {"vit": ("intermediate.dense", "output.dense"), "swiglu": ("mlp.weights_in", "mlp.weights_out")}
PREPROCESSOR = {
    "do_center_crop": False, "size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
    "resample": 2,
}  # fmt: skip


def drawn(kind: str) -> dict[str, Tensor]:
    """Return random weights under transformers' names, with a head and a mask token as published files have them."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, DIM), "embeddings.position_embeddings": (1, 17, DIM),
        "embeddings.patch_embeddings.projection.weight": (DIM, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": (DIM,), "layernorm.weight": (DIM,), "layernorm.bias": (DIM,),
        "pooler.dense.weight": (DIM, DIM), "embeddings.mask_token": (1, DIM),
    }  # fmt: skip
    if kind == "registers":
        shapes["embeddings.register_tokens"] = (1, 3, DIM)
    hidden, is_vit = HIDDEN[kind], kind == "vit"
    first, second = MLP.get(kind, ("mlp.fc1", "mlp.fc2"))
    width = 2 * hidden if kind == "swiglu" else hidden
    for block in ("encoder.layer.0.", "encoder.layer.1."):
        linear = {f"attention.attention.{name}": (DIM, DIM) for name in ("query", "key", "value")}
        linear |= {"attention.output.dense": (DIM, DIM), first: (width, DIM), second: (DIM, hidden)}
        for name, shape in linear.items():
            shapes |= {f"{block}{name}.weight": shape, f"{block}{name}.bias": shape[:1]}
        for name in ("layernorm_before", "layernorm_after") if is_vit else ("norm1", "norm2"):
            shapes |= {f"{block}{name}.weight": (DIM,), f"{block}{name}.bias": (DIM,)}
        if not is_vit:
            shapes |= {f"{block}layer_scale{number}.lambda1": (DIM,) for number in (1, 2)}
    random = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=random) / 3 for name, shape in shapes.items()}


def reference(w: dict[str, Tensor], kind: str, images: Tensor) -> Tensor:
    """Return the class token after the last norm, as modeling_vit.py and modeling_dinov2.py compute it."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (DIM,), w[f"{name}.weight"], w[f"{name}.bias"], EPS)

    at, is_vit = "embeddings.patch_embeddings.projection", kind == "vit"
    x = F.conv2d(images, w[f"{at}.weight"], w[f"{at}.bias"], stride=PATCH).flatten(2).mT
    side, places = images.shape[-1] // PATCH, w["embeddings.position_embeddings"]
    if side != 4:
        grid = places[:, 1:].reshape(1, 4, 4, DIM).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False, antialias=kind == "registers")
        places = torch.cat([places[:, :1], grid.flatten(2).mT], dim=1)
    x = torch.cat([w["embeddings.cls_token"].expand(len(x), -1, -1), x], dim=1) + places
    if kind == "registers":
        x = torch.cat([x[:, :1], w["embeddings.register_tokens"].expand(len(x), -1, -1), x[:, 1:]], dim=1)
    for block in ("encoder.layer.0", "encoder.layer.1"):
        scale = [1.0 if is_vit else w[f"{block}.layer_scale{number}.lambda1"] for number in (1, 2)]
        y = norm(x, f"{block}.{'layernorm_before' if is_vit else 'norm1'}")
        q, k, v = (
            linear(y, f"{block}.attention.attention.{name}").unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        y = ((q @ k.mT / (DIM // HEADS) ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + scale[0] * linear(y, f"{block}.attention.output.dense")
        y = norm(x, f"{block}.{'layernorm_after' if is_vit else 'norm2'}")
        if kind == "swiglu":
            gate, value = linear(y, f"{block}.mlp.weights_in").chunk(2, dim=-1)
            y = linear(F.silu(gate) * value, f"{block}.mlp.weights_out")
        else:
            names = ("intermediate.dense", "output.dense") if is_vit else ("mlp.fc1", "mlp.fc2")
            y = linear(F.gelu(linear(y, f"{block}.{names[0]}")), f"{block}.{names[1]}")
        x = x + scale[1] * y
    return norm(x, "layernorm")[:, 0]


def published(folder: Path, kind: str, **changes: Any) -> str:
    """Write a folder as the hub has it, and return the encoder's name."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[kind]))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR | changes))
    prefix = "vit." if kind == "vit" else ""
    safetensors.torch.save_file({prefix + name: tensor for name, tensor in drawn(kind).items()}, folder / "model.safetensors")
    return f"hf/{folder}"


@pytest.mark.parametrize("side", [32, 48])
@pytest.mark.parametrize("kind", CONFIGS)
def test_features_are_those_of_transformers(kind: str, side: int, tmp_path: Path) -> None:
    name = published(tmp_path / kind, kind)
    encoder = load_encoder(tmp_path / kind / "model.safetensors", EncoderConfig(name=name, side_px=side)).eval()
    images = torch.rand(2, 3, side, side)
    mean, std = (torch.tensor(PREPROCESSOR[key])[:, None, None] for key in ("image_mean", "image_std"))
    with torch.no_grad():
        expected = reference(drawn(kind), kind, (images - mean) / std)
        torch.testing.assert_close(encoder(images), expected, atol=1e-5, rtol=1e-5)
    assert encoder.input.spec.interpolation == "bilinear"
    assert "norm_layer=lambda d: timm.layers.LayerNorm(d, eps=0.001)" in loading_code(encoder)


def test_a_row_of_the_registry_is_built_as_its_repository_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(tmp_path / "hub" / "kaiko-ai" / "midnight", "swiglu")
    config = EncoderConfig(name="midnight", side_px=32)
    with hub_of(tmp_path / "hub", tmp_path / "cache", monkeypatch):
        with pytest.raises(InputError, match="First: hnm encoder fetch midnight; or give a folder"):
            build_encoder(config)
        encoder = load_encoder(fetch(Place("kaiko-ai/midnight"), "midnight"), config).eval()
    assert (encoder.feature_dim, encoder.spec.mpp, encoder.spec.licence) == (2 * DIM, (0.5,), "MIT")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = reference(drawn("swiglu"), "swiglu", images * 2 - 1)
        torch.testing.assert_close(encoder(images)[:, :DIM], expected, atol=1e-5, rtol=1e-5)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    name = published(tmp_path / "vit", "vit")
    file = tmp_path / "vit" / "model.safetensors"
    state = safetensors.torch.load_file(file)
    for lost in ("vit.encoder.layer.1.attention.attention.key.weight", "vit.encoder.layer.0.output.dense.bias"):
        safetensors.torch.save_file({key: tensor for key, tensor in state.items() if key != lost}, file)
        with pytest.raises(InputError, match=r"blocks\.1\.attn\.qkv\.weight|blocks\.0\.mlp\.fc2\.bias"):
            load_encoder(file, EncoderConfig(name=name))
    (tmp_path / "vit" / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"preprocessor_config\.json: cannot be read"):
        build_encoder(EncoderConfig(name=name))
    (tmp_path / "vit" / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    with pytest.raises(InputError, match=r"do not describe a network of timm \(KeyError: 'hidden_size'"):
        build_encoder(EncoderConfig(name=name))
    with pytest.raises(ValueError, match="hidden_act relu"):
        arguments_of(CONFIGS["vit"] | {"hidden_act": "relu"}, None)
    with pytest.raises(ValueError, match="is no square"):
        input_of(PREPROCESSOR | {"size": {"height": 32, "width": 16}})
    assert input_of(PREPROCESSOR | {"do_center_crop": True, "crop_size": 24}).side_px == 24
