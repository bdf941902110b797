"""How exactly a GPU computes: TF32 or not, and whether the same sums come out twice; and where torch.compile keeps its code."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from hnm.engine.engine import EngineConfig


@contextmanager
def numerics(config: EngineConfig) -> Iterator[None]:
    """Let torch compute as the configuration says during the block, and as before after it.

    torch alone would take TF32 in convolutions, 10 bits of mantissa instead of 23, and say nothing.
    """
    before = (
        torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )  # fmt: skip
    is_tf32 = config.precision == "tf32"
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    try:
        _set("high" if is_tf32 else "highest", is_tf32, config.deterministic, config.deterministic, False)
        yield
    finally:
        _set(*before)


def _set(matmul: str, tf32: bool, cudnn_deterministic: bool, deterministic: bool, fill: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.deterministic = cudnn_deterministic
    if deterministic != torch.are_deterministic_algorithms_enabled():  # the call imports torch's compiler, 2 s
        torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def numerics_in_words(config: EngineConfig, device: torch.device) -> str | None:
    """Return what a run on a GPU should know of its numbers, None on a CPU."""
    if device.type != "cuda":
        return None
    told = {
        "fp32": "fp32, TF32 off (engine.precision=tf32 or bf16 is faster, and less exact)",
        "tf32": "TF32 in matrix products and convolutions",
        "bf16": "bf16 in the encoder's forward pass, TF32 off elsewhere",
    }[config.precision]
    same = "the same bits each time" if config.deterministic else "sums in any order (engine.deterministic=true: the same bits)"
    return f"{torch.cuda.get_device_name(device)}: {told}; {same}"


def use_local_compile_cache(local_rank: int) -> Path | None:
    """Let torch.compile and Triton keep their code on this node's own disk, each rank of the node apart, and return where.

    In a home on a network file system the ranks of all nodes would write into one folder at once. What the user has set
    (TRITON_CACHE_DIR, TORCHINDUCTOR_CACHE_DIR) stays; None: both are.
    """
    folders = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
    unset = {name: folder for name, folder in folders.items() if name not in os.environ}
    if not unset:
        return None
    private = _private_folder() / f"rank-{local_rank}"
    for name, folder in unset.items():
        (private / folder).mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(private / folder)
    return private


def _private_folder() -> Path:
    """Return a folder of ours alone in the temporary folder, the same for all runs on the node unless somebody else has it."""
    folder = Path(tempfile.gettempdir()) / f"hnm-compiled-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o700:
        return folder
    return Path(tempfile.mkdtemp(prefix="hnm-compiled-"))  # compiled code is run: not from where others may write
