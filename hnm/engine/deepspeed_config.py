"""Which DeepSpeed configuration is meant, and whether it leaves to us what both engines must do alike."""

import difflib
import json
from pathlib import Path
from typing import Any

Settings = dict[str, Any]

# keys of DeepSpeed's configuration that would compete with ours, and what to set instead
OURS = {
    **dict.fromkeys(("optimizer", "scheduler"), "the lr of pretrain, finetune and aggregate"),
    **dict.fromkeys(("fp16", "bf16", "torch_autocast", "amp", "data_types"), "engine.precision"),
    "gradient_clipping": "engine.clip_norm",
    **dict.fromkeys(
        ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
        "batch_size and chunk_size of pretrain and finetune",
    ),
    "checkpoint": "nothing: checkpoints are written by hnm",
}
NOT_WITH_ZERO = ("offload_optimizer", "offload_param")  # gradients and state would not be where we look for them


def resolve_deepspeed(value: str | Path | Settings, folder: Path) -> Settings:
    """Return the settings that `value` stands for.

    Args:
        value: a packaged name such as "zero1", the path of a JSON file, or the settings themselves.
        folder: of the packaged files.

    Raises:
        ValueError: no such file, no JSON, or settings that an engine cannot have; with the remedy.
    """
    settings = value if isinstance(value, dict) else _read(str(value), folder)
    stage = settings.get("zero_optimization", {}).get("stage")
    if stage not in (0, 1, 2, 3):
        raise ValueError(f"zero_optimization.stage is {stage!r}: it must be 0, 1, 2 or 3")
    for key, instead in OURS.items():
        if key in settings:
            raise ValueError(f"leave {key!r} out: set {instead}")
    for key in NOT_WITH_ZERO:
        if settings["zero_optimization"].get(key):
            raise ValueError(f"zero_optimization.{key} is not supported: leave it out, and take a higher stage")
    return settings


def _read(name: str, folder: Path) -> Settings:
    path = folder / f"{name}.json"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.json"))
        close = difflib.get_close_matches(name, known, n=1)
        nearest = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"there is no such file.{nearest} Known: {', '.join(known)}, or a path, or the settings")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds no JSON object")
    return settings
