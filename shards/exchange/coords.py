"""Coordinates of patches that another tool has chosen, and whether they fit the slide.

    TRIDENT     coords (n, 2); attributes patch_size, patch_size_level0, level0_width, level0_magnification ... of `coords`
    AtlasPatch  coords (n, 5): x, y, read width and height, level; the same names as attributes of the file
    CLAM        coords (n, 2); attributes patch_size, patch_level, downsample, level_dim of `coords`; of older tools
                custom_downsample, too: patches are read that much larger, and made smaller
    hs2p        <slide>.coordinates.npz: x, y; <slide>.coordinates.meta.json: slide, tiling; no npz where there is no tissue

All are left and top edges in level-0 pixels. What a file says of the slide is compared with the slide, never trusted.
Sources: TRIDENT a91fa84 trident/IO.py (coords_to_h5, read_coords_legacy), CLAM 53e2409 wsi_core/WholeSlideImage.py
(process_contour), AtlasPatch 31146af atlas_patch/services/storage.py, hs2p 6.1.0 hs2p/tiling/io.py.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.cohort.slides import Slide
from shards.errors import InputError
from shards.exchange.h5 import attributes_of, open_h5, read_dataset
from shards.exchange.names import files_of_slides

SUFFIXES = (".h5", ".hdf5", ".npz")
META_ENDING = ".coordinates.meta.json"
UM_PER_PX_AT_1X = 10.0
MAX_LEVEL_ERROR = 1.02  # of downsamples and sides: rounded level sizes
MAX_MPP_ERROR = 1.1
MAX_SIDE_ERROR = 1.1  # hs2p reads a level that is a few percent off the scale that is wished for
# TRIDENT calls 0.3 to 0.6 um/px "20x": 0.3 is 33x. Twice as much is another level
MAX_MAGNIFICATION_ERROR = 1.7


@dataclass(frozen=True)
class ForeignCoords:
    """What a file of coordinates says; None is what it does not tell.

    Attributes:
        path: the file.
        tool: whose layout it has.
        xy_level0: (n, 2) int64 left and top edges, level-0 pixels.
        patch_px: side of a patch as the tool hands it to an encoder, pixels.
        patch_level0: the same, level-0 pixels.
        size: of the slide, level-0 pixels.
        level: of the pyramid that `read_px` are pixels of.
        read_px: side of a patch at that level.
        downsample: of that level.
        mpp: microns per pixel at level 0.
        magnification: of level 0, a round number.
        target_mpp: microns per pixel of the patch, as wished for.
    """

    path: Path
    tool: str
    xy_level0: np.ndarray
    patch_px: int
    patch_level0: int | None = None
    size: tuple[int, int] | None = None
    level: int | None = None
    read_px: int | None = None
    downsample: float | None = None
    mpp: float | None = None
    magnification: float | None = None
    target_mpp: float | None = None


def coords_files(folder: Path, slides: Sequence[Slide]) -> dict[str, Path]:
    """Return each slide's file of coordinates by slide id, of the slides that have one.

    Raises:
        InputError: see `files_of_slides`.
    """
    found = files_of_slides(folder, slides, SUFFIXES)
    missing = [slide for slide in slides if slide.slide_id not in found]
    if missing and any(folder.rglob(f"*{META_ENDING}")):  # of a slide without tissue, hs2p writes this file alone
        found |= files_of_slides(folder, missing, (META_ENDING,), may_be_none=True)
    return found


def read_coords(path: Path) -> ForeignCoords:
    """Read a file of coordinates.

    Raises:
        InputError: none of the layouts, or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no file of coordinates for this slide. Make it, or remove the slide's row")
    try:
        coords = _read_npz(path) if path.suffix.lower() in (".npz", ".json") else _read_h5(path)
    except (KeyError, ValueError, TypeError, OSError, IndexError) as error:
        words = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: no coordinates of TRIDENT, CLAM, AtlasPatch or hs2p ({words})") from None
    sides = (coords.patch_px, coords.patch_level0, coords.read_px)
    if coords.xy_level0.dtype.kind not in "iu" or any(side is not None and side < 1 for side in sides):
        raise InputError(
            f"{path}: coordinates and sides of patches are whole numbers of pixels; these are not. Write it again"
        )
    return coords


def side_on_slide(
    coords: ForeignCoords, width: int, height: int, downsamples: Sequence[float], mpp: float | None
) -> int:
    """Return the side of the patches in level-0 pixels, once all that the file says of its slide holds.

    Args:
        width: of the slide, level-0 pixels.
        height: likewise.
        downsamples: of its levels.
        mpp: microns per pixel at level 0, None: unknown.

    Raises:
        InputError: naming both numbers.
    """
    if coords.size is not None and coords.size != (width, height):
        raise _unfit(
            coords, f"is of a slide of {coords.size[0]} x {coords.size[1]} level-0 pixels", f"{width} x {height}"
        )
    side = coords.patch_level0
    if coords.level is not None:
        if coords.level >= len(downsamples):
            raise _unfit(coords, f"was read at level {coords.level}", f"levels 0 to {len(downsamples) - 1}")
        downsample = downsamples[coords.level]
        if coords.downsample is not None and not _alike(coords.downsample, downsample, MAX_LEVEL_ERROR):
            raise _unfit(
                coords, f"says level {coords.level} is {coords.downsample:g} times smaller", f"{downsample:g} times"
            )
        read_level0 = round((coords.read_px or coords.patch_px) * downsample)
        if side is not None and not _alike(read_level0, side, MAX_SIDE_ERROR):
            raise _unfit(
                coords, f"has patches of {side} level-0 pixels", f"at level {coords.level} {read_level0} for them"
            )
        side = side or read_level0
    if side is None:
        raise InputError(
            f"{coords.path}: says neither patch_size_level0 nor patch_level: how large its patches are is unknown"
        )
    _check_scale(coords, mpp)
    far = coords.xy_level0[(coords.xy_level0 >= [width, height]).any(axis=1) | (coords.xy_level0 < 0).any(axis=1)]
    if len(far):
        raise _unfit(coords, f"has a patch at ({far[0][0]}, {far[0][1]})", f"{width} x {height} level-0 pixels")
    return side


def inside(coords: ForeignCoords, side_level0: int, width: int, height: int) -> np.ndarray:
    """Return the distinct coordinates whose patch lies wholly inside the slide, in the file's order, (n, 2) int32."""
    xy = coords.xy_level0[(coords.xy_level0 + side_level0 <= [width, height]).all(axis=1)]
    _, first = np.unique(xy, axis=0, return_index=True)  # CLAM's contours may overlap
    return xy[np.sort(first)].astype(np.int32)


def common_settings(
    coords: Sequence[ForeignCoords], patch_px: int | None = None, mpp: float | None = None
) -> dict[str, float]:
    """Return `patch_px`, and `mpp` where the files tell it, that suit all files.

    Args:
        patch_px: side that the user wants; None: the files' own.
        mpp: microns per pixel that the user wants; None: what the files show at that side.

    Raises:
        InputError: two files differ, or CLAM's patches are of a coarser level, whose scale the file does not tell.
    """
    first = coords[0]
    for other in coords[1:]:
        if patch_px is None and other.patch_px != first.patch_px:
            raise InputError(
                f"{first.path} has patches of {first.patch_px} px, {other.path} of {other.patch_px}. "
                "Say which side all are to have: tile.patch_px"
            )
    side = patch_px or first.patch_px
    found: dict[str, float] = {"patch_px": side}
    if mpp is not None:
        return found | {"mpp": mpp}
    mpps = {one.target_mpp and one.target_mpp * one.patch_px / side for one in coords}
    if len(mpps) > 1:
        raise InputError(
            f"{first.path} and others are of several scales: {sorted(map(str, mpps))} um/px. Say which: tile.mpp"
        )
    if (own := mpps.pop()) is not None:
        found["mpp"] = own
    elif any(one.level for one in coords):
        told = f"patches of level {first.level}; the file does not tell their scale"
        raise InputError(f"{first.path}: {told}. Say it: tile.mpp=0.5")
    return found


def _check_scale(coords: ForeignCoords, mpp: float | None) -> None:
    if mpp is None:
        return
    if coords.mpp is not None and not _alike(coords.mpp, mpp, MAX_MPP_ERROR):
        raise _unfit(coords, f"says {coords.mpp:g} microns per pixel", f"{mpp:g}")
    round_mpp = UM_PER_PX_AT_1X / coords.magnification if coords.magnification else mpp
    if not _alike(round_mpp, mpp, MAX_MAGNIFICATION_ERROR):
        raise _unfit(coords, f"says {coords.magnification:g}x ({round_mpp:g} um/px)", f"{mpp:g} um/px")


def _alike(one: float, other: float, most: float) -> bool:
    return 0 < max(one, other) <= most * min(one, other)


def _unfit(coords: ForeignCoords, says: str, has: str) -> InputError:
    remedy = "It belongs to another slide, or to another file of this one"
    return InputError(f"{coords.path} ({coords.tool}) {says}; the slide has {has}. {remedy}")


def _read_h5(path: Path) -> ForeignCoords:
    with open_h5(path) as file:
        xy = read_dataset(file, "coords", path)
        told = attributes_of(file) | attributes_of(file["coords"])
    if xy.ndim != 2 or xy.shape[1] not in (2, 5):
        raise ValueError(f"coords have the shape {xy.shape}, not (n, 2)")
    if xy.dtype.kind == "f" and (xy == np.round(xy)).all():
        xy = xy.astype(np.int64)
    if "patch_level" in told:
        return _clam(path, xy, told)
    magnification, target = _number(told, "level0_magnification"), _number(told, "target_magnification")
    side, patch_px = _number(told, "patch_size_level0"), int(told["patch_size"])
    if side and magnification and target and abs(side - patch_px * magnification / target) > 1:
        raise InputError(
            f"{path}: contradicts itself: patch_size_level0 is {side}, but {patch_px} px at {target:g}x of {magnification:g}x "
            f"are {patch_px * magnification / target:g}. Write it again"
        )
    size = (int(told["level0_width"]), int(told["level0_height"])) if "level0_width" in told else None
    read_px, level = (int(xy[0, 2]), int(xy[0, 4])) if xy.shape[1] == 5 and len(xy) else (None, None)
    return ForeignCoords(
        path,
        "AtlasPatch" if xy.shape[1] == 5 else "TRIDENT",
        xy[:, :2].astype(np.int64),
        patch_px,
        int(side) if side else None,
        size,
        level,
        read_px,
        None,
        _number(told, "level0_mpp") or _number(told, "mpp"),
        magnification,
        _number(told, "target_mpp") or (UM_PER_PX_AT_1X / target if target else None),
    )


def _number(told: Mapping[str, Any], name: str) -> float | None:
    """Return an attribute that is a number above zero; None: TRIDENT writes the text "None", AtlasPatch 0 for unknown."""
    value = told.get(name)
    return value if isinstance(value, int | float) and value > 0 else None


def _clam(path: Path, xy: np.ndarray, told: Mapping[str, Any]) -> ForeignCoords:
    downsample = told.get("downsample")
    downsample = float(np.mean(downsample)) if downsample is not None else None
    level = int(told["patch_level"])
    size = tuple(int(side) for side in told["level_dim"]) if level == 0 and "level_dim" in told else None
    patch_px = int(told["patch_size"])
    read_px = round(patch_px * float(told.get("custom_downsample", 1)))
    return ForeignCoords(path, "CLAM", xy, patch_px, None, size, level, read_px, downsample)  # type: ignore[arg-type]


def _read_npz(path: Path) -> ForeignCoords:
    beside = path if path.suffix == ".json" else path.with_name(f"{path.name.removesuffix('.npz')}.meta.json")
    if not beside.is_file():
        raise InputError(f"{path}: hs2p's {beside.name}, which says how large the patches are, is not beside it")
    meta = json.loads(beside.read_text(encoding="utf-8"))
    slide, tiling = meta["slide"], meta["tiling"]
    xy = np.empty((0, 2), np.int64)
    if path != beside:
        with np.load(path, allow_pickle=False) as arrays:
            xy = np.stack([arrays["x"], arrays["y"]], axis=1)
    elif tiling["n_tiles"]:
        npz = path.name.removesuffix(".meta.json")
        raise InputError(f"{path}: tells of {tiling['n_tiles']} patches, but {npz}.npz is not beside it. Copy that, too")
    level = int(tiling["read_level"])
    return ForeignCoords(
        path,
        "hs2p",
        xy,
        int(tiling["requested_tile_size_px"]),
        int(tiling["tile_size_lv0"]),
        (int(slide["dimensions"][0]), int(slide["dimensions"][1])),
        level,
        int(tiling["read_tile_size_px"]),
        float(np.mean(slide["level_downsamples"][level])),
        _number(slide, "base_spacing_um"),
        None,
        float(tiling["requested_spacing_um"]),
    )
