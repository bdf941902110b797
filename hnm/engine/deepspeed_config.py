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
# What else DeepSpeed 0.19 reads of its configuration, as far as it means something with our engine. It takes an unknown key
# without a word, and refuses one of zero_optimization when the first phase of training begins, hours after the start.
KNOWN = (
    "zero_optimization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "communication_data_type",
    "prescale_gradients", "gradient_predivide_factor", "gradient_allreduce_op", "disable_allgather", "disable_python_gc",
    "dump_state", "steps_per_print", "wall_clock_breakdown", "memory_breakdown", "log_level", "comms_logger", "flops_profiler",
    "activation_checkpointing", "aio", "compile", "tensorboard", "csv_monitor", "wandb", "comet", "timers",
)  # fmt: skip
KNOWN_OF_ZERO = (
    "stage", "contiguous_gradients", "reduce_scatter", "reduce_bucket_size", "use_multi_rank_bucket_allreduce",
    "allgather_partitions", "allgather_bucket_size", "overlap_comm", "compute_grad_norm", "elastic_checkpoint", "sub_group_size",
    "offload_optimizer", "offload_param", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold",
    "stage3_model_persistence_threshold", "stage3_max_live_parameters", "stage3_max_reuse_distance",
    "stage3_module_granularity_threshold", "stage3_use_all_reduce_for_fetch_params", "stage3_allgather_sequential",
    "ignore_unused_parameters", "round_robin_gradients", "parameter_alignment", "zero_hpz_partition_size",
    "zero_quantized_weights", "zero_quantized_nontrainable_weights", "zero_quantized_gradients", "memory_efficient_linear",
    "pipeline_loading_checkpoint", "override_module_apply", "log_trace_cache_warnings", "enable_sanity_checks",
    "leaf_module", "zenflow",
)  # fmt: skip
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
    for key, instead in OURS.items():
        if key in settings:
            raise ValueError(f"leave {key!r} out: set {instead}")
    _require_known(settings, KNOWN, "")
    zero = settings.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise ValueError(f'zero_optimization is {zero!r}: it must be an object, such as {{"stage": 2}}')
    stage = zero.get("stage")
    if type(stage) is not int or stage not in (0, 1, 2, 3):  # True is an int, and equal to 1
        raise ValueError(f"zero_optimization.stage is {stage!r}: it must be 0, 1, 2 or 3")
    _require_known(zero, KNOWN_OF_ZERO, "zero_optimization.")
    for key in NOT_WITH_ZERO:
        if settings["zero_optimization"].get(key):
            raise ValueError(f"zero_optimization.{key} is not supported: leave it out, and take a higher stage")
    return settings


def _require_known(settings: Settings, known: tuple[str, ...], prefix: str) -> None:
    for key in settings:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            nearest = f" Did you mean {prefix + close[0]!r}?" if close else f" Known: {', '.join(known)}"
            raise ValueError(f"unknown key {prefix + str(key)!r} of DeepSpeed.{nearest}")


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
