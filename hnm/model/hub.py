"""An exported encoder as a folder that timm and huggingface-hub load: what push_to_hub would upload. Nothing is uploaded.

HUB/ config.json  model.safetensors  README.md       timm.create_model("local-dir:HUB"), or "hf-hub:ORG/NAME" once it is there
"""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from hnm.encoder.foreign import ForeignEncoder
from hnm.encoder.networks import Encoder
from hnm.model.export import CARD_FILE
from hnm.model.model import Model
from shards.errors import InputError
from shards.files import whole_file, write_json


def write_hub(model: Model, exported: Path, hub: Path) -> list[str]:
    """Write the folder.

    Args:
        exported: what hnm export has written, whose card goes along.

    Returns:
        What to know, line by line.

    Raises:
        InputError: timm has no such network, or `hub` holds something else.
    """
    architecture, arguments, tensors = _as_timm_has_it(model.encoder)
    if hub.exists() and not (hub / "config.json").is_file() and any(hub.iterdir()):
        raise InputError(f"{hub}: exists and is no such folder. Choose another name or remove it")
    with whole_file(hub / "model.safetensors") as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata={"format": "pt"})
    write_json(hub / "config.json", config_of(model, architecture, arguments))
    licence = model.encoder.spec.licence if isinstance(model.encoder, ForeignEncoder) else ""
    front = ["---", "library_name: timm", "tags: [image-feature-extraction, timm, pathology]"]
    front += [f"license: {licence}"] if licence else []
    with whole_file(hub / "README.md") as temporary:
        temporary.write_text(
            "\n".join([*front, "---", "", (exported / CARD_FILE).read_text(encoding="utf-8")]), encoding="utf-8"
        )
    note = model.about.encoder.get("licence_note")
    return [
        f'{hub}: timm.create_model("local-dir:{hub.absolute()}") loads it. It does not resize and normalise by itself: do what '
        "pretrained_cfg in config.json says",
        *([f"Before you upload it: {note}"] if note else []),
    ]


def config_of(model: Model, architecture: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return timm's config.json.

    A network of fixed side (a ViT) is named with the side that it is built for, or its position embedding would not fit;
    the side that it was trained at here stands in the card's code.
    """
    encoder, wanted = model.encoder, model.encoder.input.spec
    built: dict[str, Any] = getattr(encoder.network, "pretrained_cfg", {}) if isinstance(encoder, ForeignEncoder) else {}
    is_fixed, side = bool(built.get("fixed_input_size")), wanted.side_px or model.config.tile.patch_px
    if is_fixed:  # timm itself forgets it where the network also takes other sides (_hub.py, _parse_model_cfg)
        arguments = {"img_size": built["input_size"][-1], **arguments}
    cfg = {
        "custom_load": False,
        "input_size": list(built["input_size"]) if is_fixed else [3, side, side],
        "fixed_input_size": is_fixed,
        "interpolation": wanted.interpolation,
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": list(wanted.mean),
        "std": list(wanted.std),
        "num_classes": 0,
        "first_conv": None,
        "classifier": None,
    }
    found = {"architecture": architecture, "num_classes": 0, "num_features": encoder.feature_dim, "pretrained_cfg": cfg}
    return found | ({"model_args": arguments} if arguments else {})


def _as_timm_has_it(encoder: Encoder) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return timm's name of the network, its arguments, and the tensors under timm's names.

    Raises:
        InputError: timm does not have it.
    """
    if isinstance(encoder, ForeignEncoder):
        is_plain = encoder.spec.pooling == "own" and "norm_eps" not in encoder.spec.arguments  # which timm cannot say in a file
        if encoder.spec.source != "timm" or not is_plain:
            raise InputError(
                f"--hub: {encoder.spec.name} is no network that timm loads by itself. Hand on the exported folder, or --onnx"
            )
        arguments = {name: value for name, value in encoder.spec.arguments.items() if name != "num_classes"}
        return encoder.spec.network.partition(".")[0], arguments, encoder.network.state_dict()
    config = encoder.config
    if (config.norm, config.stem, config.width) != ("batch", "imagenet", 1.0):
        raise InputError(
            f"--hub: timm has no {config.architecture} with encoder.norm={config.norm}, stem={config.stem}, "
            f"width={config.width:g}; it has batch, imagenet, 1. Hand on the exported folder, whose MODEL.md "
            "loads it without this package, or --onnx"
        )
    return config.architecture, {}, encoder.state_dict()
