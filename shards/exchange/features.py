"""Features of patches that another tool has computed: HDF5, torch tensors, NumPy arrays, a file per slide.

    .h5          features (n, d) [or a group of several: AtlasPatch], coords (n, 2 or more), attributes as of coordinates
    .pt, .pth    a tensor or NumPy array (n, d), or a dictionary that holds one, and perhaps coords
    .npy         (n, d)

Numbers stay as they are (float16, float32; float64 and bfloat16 become float32). A pickle that would run code is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import InputError
from shards.exchange.h5 import attributes_of, open_h5, read_dataset
from shards.exchange.torch_file import load_plain

SUFFIXES = (".h5", ".hdf5", ".pt", ".pth", ".npy")
NAMES = ("features", "feats", "embeddings")  # of the matrix in a dictionary


@dataclass(frozen=True)
class ForeignFeatures:
    """What a file of features holds; None is what it does not tell.

    Attributes:
        path: the file.
        features: (n, d) float16 or float32.
        xy_level0: (n, 2) int64 left and top edges, level-0 pixels.
        patch_px: side of a patch, pixels.
        patch_level0: likewise, level-0 pixels.
        size: of the slide, level-0 pixels.
        mpp: microns per pixel at level 0.
        target_mpp: microns per pixel of a patch.
    """

    path: Path
    features: np.ndarray
    xy_level0: np.ndarray | None = None
    patch_px: int | None = None
    patch_level0: int | None = None
    size: tuple[int, int] | None = None
    mpp: float | None = None
    target_mpp: float | None = None


def read_features(path: Path, name: str | None = None) -> ForeignFeatures:
    """Read a slide's features.

    Args:
        name: which of several matrices, where a file holds more than one.

    Raises:
        InputError: the file cannot be read safely, or holds no matrix of finite numbers with a place for each row.
    """
    suffix = path.suffix.lower()
    if suffix in (".h5", ".hdf5"):
        found, xy, told = _read_h5(path, name)
    elif suffix == ".npy":
        found, xy, told = _read_npy(path), None, {}
    else:
        found, xy, told = *_read_torch(path, name), {}
    if found.ndim == 3 and found.shape[0] == 1:  # some tools keep a batch axis
        found = found[0]
    if found.shape == (0,):  # TRIDENT's of a slide without tissue, by an encoder that does not say its length
        found = found.reshape(0, 1)
    if found.ndim != 2 or not found.shape[1] or found.dtype.kind != "f":
        raise InputError(
            f"{path}: features are {found.dtype} of shape {found.shape}, no matrix (patches, numbers). Write it again"
        )
    if found.dtype.itemsize > 4:
        found = found.astype(np.float32)
    broken = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(broken):
        raise InputError(
            f"{path}: row {broken[0]} (the first of {len(broken)}) is not finite. Compute the features again"
        )
    if xy is not None and (xy.ndim != 2 or len(xy) != len(found) or xy.shape[1] < 2):
        raise InputError(f"{path}: {len(found)} features, but coords of shape {xy.shape}. Write it again")
    return ForeignFeatures(path, found, None if xy is None else np.round(xy[:, :2]).astype(np.int64), **_geometry(told))


def _geometry(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what attributes say of the patches, in our words; what is no number tells nothing."""
    numbers = {name: value for name, value in told.items() if isinstance(value, int | float) and value > 0}
    size = (
        (int(numbers["level0_width"]), int(numbers["level0_height"]))
        if {"level0_width", "level0_height"} <= numbers.keys()
        else None
    )
    patch_px, side = numbers.get("patch_size"), numbers.get("patch_size_level0")
    target = numbers.get("target_magnification")
    return {
        "patch_px": int(patch_px) if patch_px else None,
        "patch_level0": int(side) if side else None,
        "size": size,
        "mpp": numbers.get("level0_mpp") or numbers.get("mpp"),
        "target_mpp": numbers.get("target_mpp") or (10.0 / target if target else None),
    }


def _read_h5(path: Path, name: str | None) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    with open_h5(path) as file:
        group, chosen = file, name or "features"
        if "features" in file and hasattr(file["features"], "keys"):  # AtlasPatch: one matrix an encoder
            group = file["features"]
            if name is None and len(group) > 1:
                raise InputError(
                    f"{path}: features of several encoders: {', '.join(group)}. Say which: --name {next(iter(group))}"
                )
            chosen = name or next(iter(group), "features")
        features = read_dataset(group, chosen, path)
        xy = read_dataset(file, "coords", path) if "coords" in file else None
        told = attributes_of(file) | (attributes_of(file["coords"]) if xy is not None else {})
    return features, xy, told


def _read_npy(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: refused, no plain NumPy array ({error})") from None
    return array


def _read_torch(path: Path, name: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    import torch  # 2 s, that only these files need

    content = load_plain(path, "Save the tensor alone")
    xy = None
    if isinstance(content, dict):
        tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
        chosen = [key for key in ([name] if name else NAMES) if key in tensors]
        if not chosen:
            raise InputError(
                f"{path}: no tensor {name or ' or '.join(NAMES)}; there is: {', '.join(map(str, content)) or 'nothing'}"
            )
        xy = tensors["coords"].numpy() if "coords" in tensors else None
        content = tensors[chosen[0]]
    if not isinstance(content, torch.Tensor):
        raise InputError(
            f"{path}: holds a {type(content).__name__}, no tensor. Save the tensor (patches, numbers) alone"
        )
    return (content.float() if content.dtype == torch.bfloat16 else content).numpy(), xy
