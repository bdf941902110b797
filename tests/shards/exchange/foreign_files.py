"""Files as TRIDENT, CLAM, AtlasPatch and hs2p lay them out: data sets, attributes, types and chunks.

Written by reading their sources (shards/exchange/coords.py names the commits), and held against files that their own code
wrote on 2026-11-28: TRIDENT's extract_tissue_coords and extract_patch_features, CLAM's process_contours and compute_w_loader,
AtlasPatch's PatchExtractionService and append_features, hs2p's tile_slides.
"""

import json
from pathlib import Path

import h5py
import numpy as np
import torch


def trident(path: Path, xy: np.ndarray, side: int, **changes: object) -> Path:
    """As trident/IO.py, coords_to_h5: 20x of 20x, slides of 512 px."""
    told = {
        "patch_size": side,
        "patch_size_level0": side,
        "level0_magnification": 20,
        "target_magnification": 20,
        "overlap": 0,
        "name": path.stem,
        "savetodir": "/data",
        "level0_width": 512,
        "level0_height": 512,
    }
    with h5py.File(path, "w") as file:
        coords = file.create_dataset("coords", data=xy.astype(np.int64), chunks=(1, 2), maxshape=(None, 2))
        coords.attrs.update(told | changes)
    return path


def clam(path: Path, xy: np.ndarray, side: int, level: int = 0, **changes: object) -> Path:
    """As CLAM's process_contour and save_hdf5."""
    told = {
        "patch_size": side,
        "patch_level": level,
        "downsample": (float(2**level),) * 2,
        "downsampled_level_dim": (512 // 2**level,) * 2,
        "level_dim": (512 // 2**level,) * 2,
        "name": path.stem,
        "save_path": "/data",
    }
    with h5py.File(path, "w") as file:
        file.create_dataset("coords", data=xy.astype(np.int64), chunks=(1, 2), maxshape=(None, 2)).attrs.update(
            told | changes
        )
    return path


def atlaspatch(path: Path, xy: np.ndarray, side: int, **changes: object) -> Path:
    """As atlas_patch/services/storage.py, H5PatchWriter: attributes of the file, five columns."""
    told = {
        "patch_size": side,
        "patch_size_level0": side,
        "level0_magnification": 20,
        "target_magnification": 20,
        "overlap": 0,
        "level0_width": 512,
        "level0_height": 512,
        "mpp": 0.5,
    }
    rows = np.column_stack([xy, np.tile([side, side, 0], (len(xy), 1))]).astype(np.int32)
    with h5py.File(path, "w") as file:
        file.create_dataset("coords", data=rows, chunks=(8192, 5), maxshape=(None, 5))
        file.create_dataset("passports", data=np.full(len(xy), b"a__x0", "S160"), chunks=(8192,), maxshape=(None,))
        file.attrs.update(told | changes)
    return path


def hs2p(path: Path, xy: np.ndarray, side: int, **changes: object) -> Path:
    """As hs2p/tiling/io.py: <slide>.coordinates.npz and .coordinates.meta.json, the latter alone where there is no patch."""
    x, y = xy.T.astype(np.int64)
    if len(xy):
        np.savez_compressed(
            path, tile_index=np.arange(len(x), dtype=np.int32), x=x, y=y, tissue_fractions=np.ones(len(x), np.float32)
        )
    tiling = {
        "requested_tile_size_px": side,
        "requested_spacing_um": 0.5,
        "read_level": 0,
        "read_tile_size_px": side,
        "tile_size_lv0": side,
        "n_tiles": len(x),
    }
    slide = {"dimensions": [512, 512], "base_spacing_um": 0.5, "level_downsamples": [[1.0, 1.0], [4.0, 4.0]]} | changes
    beside = path.with_name(path.name.replace(".npz", ".meta.json"))
    beside.write_text(json.dumps({"slide": slide, "tiling": tiling}))
    return path if len(xy) else beside


def trident_features(path: Path, features: np.ndarray, xy: np.ndarray, side: int) -> Path:
    """As trident/wsi_objects/WSI.py, extract_patch_features: a .pt holds NumPy's array; a .h5 what `trident` wrote, too."""
    if path.suffix == ".pt":
        torch.save(features, path)
        return path
    trident(path, xy, side)
    with h5py.File(path, "a") as file:
        file.create_dataset("features", data=features, chunks=(1, *features.shape[1:]), maxshape=(None, *features.shape[1:]))
        file["features"].attrs.update({"name": path.stem, "savetodir": "/data", "encoder": "None"})
    return path


def clam_features(path: Path, features: np.ndarray, xy: np.ndarray, side: int) -> Path:
    """As CLAM's extract_features_fp.py: no attribute tells how large patches are."""
    if path.suffix == ".pt":
        torch.save(torch.from_numpy(features), path)
        return path
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=features, chunks=(32, features.shape[1]), maxshape=(None, features.shape[1]))
        file.create_dataset("coords", data=xy.astype(np.int32), chunks=(32, 2), maxshape=(None, 2))
    return path


def atlaspatch_features(path: Path, features: np.ndarray, xy: np.ndarray, side: int) -> Path:
    """As atlas_patch/services/storage.py, append_features: a group, a matrix for each encoder."""
    atlaspatch(path, xy, side)
    with h5py.File(path, "a") as file:
        for name in ("uni_v1", "resnet18"):
            matrix = features if name == "uni_v1" else features[:, :1]
            file.create_dataset(f"features/{name}", data=matrix, chunks=(16, matrix.shape[1]), maxshape=(None, matrix.shape[1]))
    return path
