"""Files of coordinates as TRIDENT, CLAM, AtlasPatch and hs2p lay them out, written from their sources (see shards/exchange)."""

import json
from pathlib import Path

import h5py
import numpy as np


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
        file.create_dataset("coords", data=xy.astype(np.int64), chunks=(32, 2), maxshape=(None, 2)).attrs.update(
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
        file.create_dataset("coords", data=rows)
        file.attrs.update(told | changes)
    return path


def hs2p(path: Path, xy: np.ndarray, side: int, **changes: object) -> Path:
    """As hs2p/tiling/io.py: <slide>.coordinates.npz and <slide>.coordinates.meta.json."""
    x, y = xy.T.astype(np.int64)
    np.savez_compressed(
        path, tile_index=np.arange(len(x), dtype=np.int32), x=x, y=y, tissue_fractions=np.ones(len(x), np.float32)
    )
    tiling = {
        "requested_tile_size_px": side,
        "requested_spacing_um": 0.5,
        "read_level": 0,
        "read_tile_size_px": side,
        "tile_size_lv0": side,
    }
    slide = {"dimensions": [512, 512], "base_spacing_um": 0.5, "level_downsamples": [[1.0, 1.0], [4.0, 4.0]]} | changes
    path.with_name(path.name.replace(".npz", ".meta.json")).write_text(json.dumps({"slide": slide, "tiling": tiling}))
    return path
