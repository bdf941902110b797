"""Coordinates of other tools: each layout is read, and what does not fit the slide is refused with both numbers."""

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from shards.cohort.slides import Slide
from shards.errors import InputError
from shards.exchange.coords import common_settings, coords_files, inside, read_coords, side_on_slide
from shards.exchange.h5 import write_h5
from tests.shards.exchange.foreign_files import atlaspatch, clam, hs2p, trident

XY = np.array([[0, 0], [32, 0], [64, 96], [32, 0]])
NAMES = {trident: "a_patches.h5", clam: "a.h5", atlaspatch: "a.h5", hs2p: "a.coordinates.npz"}
SLIDE = {"width": 512, "height": 512, "downsamples": (1.0, 2.0, 4.0), "mpp": 0.5}


@pytest.mark.parametrize(
    ("write", "tool"), [(trident, "TRIDENT"), (clam, "CLAM"), (atlaspatch, "AtlasPatch"), (hs2p, "hs2p")]
)
def test_each_tools_file_is_read(write: Callable[..., Path], tool: str, tmp_path: Path) -> None:
    coords = read_coords(write(tmp_path / NAMES[write], XY, 32))
    assert (coords.tool, coords.patch_px, side_on_slide(coords, **SLIDE)) == (tool, 32, 32)
    np.testing.assert_array_equal(coords.xy_level0, XY)
    assert common_settings([coords, coords]) == ({"patch_px": 32} if tool == "CLAM" else {"patch_px": 32, "mpp": 0.5})


def test_a_level_of_clam_is_looked_up_in_the_slide(tmp_path: Path) -> None:
    coords = read_coords(clam(tmp_path / "a.h5", XY, 32, level=1))
    assert side_on_slide(coords, **SLIDE) == 64
    with pytest.raises(InputError, match=r"patches of level 1; the file does not tell their scale. Say it: tile.mpp"):
        common_settings([coords])
    assert common_settings([coords], mpp=1.0) == {"patch_px": 32, "mpp": 1.0}
    older = read_coords(clam(tmp_path / "b.h5", XY, 32, level=1, custom_downsample=2))
    assert (older.patch_px, side_on_slide(older, **SLIDE)) == (32, 128)


def test_another_side_shows_the_same_tissue(tmp_path: Path) -> None:
    coords = [read_coords(trident(tmp_path / "a.h5", XY, 32))]
    half = trident(tmp_path / "b.h5", XY, 16, patch_size_level0=32, target_magnification=10)
    assert common_settings(coords, patch_px=64) == {"patch_px": 64, "mpp": 0.25}
    assert common_settings([*coords, read_coords(half)], patch_px=64) == {"patch_px": 64, "mpp": 0.25}
    with pytest.raises(InputError, match=r"a\.h5 has patches of 32 px, .*b\.h5 of 16"):
        common_settings([*coords, read_coords(half)])


@pytest.mark.parametrize("write", [trident, atlaspatch, hs2p])
def test_a_slide_without_patches_is_read(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(tmp_path / NAMES[write], XY[:0], 32)
    folder = write(tmp_path / f"b{NAMES[write][1:]}", XY, 32).parent
    slides = [Slide(name, Path(f"{name}.svs"), name, {}, {}, None) for name in "abc"]
    files = coords_files(folder, slides)
    assert (files["a"], sorted(files)) == (path, ["a", "b"])
    assert side_on_slide(empty := read_coords(path), **SLIDE) == 32
    assert len(empty.xy_level0) == 0


@pytest.mark.parametrize(
    ("write", "changes"),
    [
        (trident, {"level0_magnification": "None", "target_magnification": "None"}),
        (atlaspatch, {"mpp": "None", "level0_magnification": 0}),
        (hs2p, {"base_spacing_um": None}),
    ],
)
def test_what_a_tool_did_not_know_tells_nothing(
    write: Callable[..., Path], changes: dict[str, object], tmp_path: Path
) -> None:
    coords = read_coords(write(tmp_path / NAMES[write], XY, 32, **changes))
    assert (coords.mpp, coords.magnification, side_on_slide(coords, **SLIDE)) == (None, None, 32)


@pytest.mark.parametrize(
    ("write", "changes", "words"),
    [
        (trident, {"level0_width": 1024}, "is of a slide of 1024 x 512 level-0 pixels; the slide has 512 x 512"),
        (
            trident,
            {"level0_magnification": 40, "patch_size_level0": 64},
            r"says 40x \(0.25 um/px\); the slide has 0.5 um/px",
        ),
        (
            trident,
            {"patch_size_level0": 64},
            "contradicts itself: patch_size_level0 is 64, but 32 px at 20x of 20x are 32",
        ),
        (atlaspatch, {"mpp": 0.25}, "says 0.25 microns per pixel; the slide has 0.5"),
        (atlaspatch, {"patch_size": 64, "patch_size_level0": 64}, None),
        (clam, {"patch_level": 3}, "was read at level 3; the slide has levels 0 to 2"),
        (clam, {"downsample": (4.0, 4.0)}, "says level 0 is 4 times smaller; the slide has 1 times"),
        (hs2p, {"dimensions": [512, 500]}, "is of a slide of 512 x 500 level-0 pixels; the slide has 512 x 512"),
        (hs2p, {"base_spacing_um": 0.25}, "says 0.25 microns per pixel; the slide has 0.5"),
        (trident, {"patch_size": 0.5, "patch_size_level0": 0}, "whole numbers of pixels; these are not"),
    ],
)
def test_what_does_not_fit_the_slide_is_refused(
    write: Callable[..., Path], changes: dict[str, object], words: str | None, tmp_path: Path
) -> None:
    path = write(tmp_path / NAMES[write], XY, 32, **changes)
    with pytest.raises(InputError, match=words):
        side_on_slide(read_coords(path), **SLIDE)


def test_patches_that_are_not_on_the_slide(tmp_path: Path) -> None:
    coords = read_coords(trident(tmp_path / "a.h5", np.array([[500, 0], [0, 0], [0, 0], [480, 480]]), 32))
    assert inside(coords, side_on_slide(coords, **SLIDE), 512, 512).tolist() == [[0, 0], [480, 480]]
    beyond = read_coords(trident(tmp_path / "b.h5", np.array([[0, 512]]), 32))
    with pytest.raises(InputError, match=r"has a patch at \(0, 512\); the slide has 512 x 512 level-0 pixels"):
        side_on_slide(beyond, **SLIDE)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    np.savez(tmp_path / "alone.npz", x=XY[:, 0], y=XY[:, 1])
    hs2p(tmp_path / "half.coordinates.npz", XY, 32).unlink()
    write_h5(tmp_path / "features.h5", {"features": np.zeros((2, 2))}, {})
    write_h5(tmp_path / "bare.h5", {"coords": XY}, {})
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["coords"] = h5py.ExternalLink(os.devnull, "coords")
    words = {
        "half.coordinates.meta.json": "tells of 4 patches, but half.coordinates.npz is not beside it",
        "text.h5": "cannot be read as HDF5", "alone.npz": "alone.meta.json",
        "features.h5": "no data set 'coords'; it has: features",
        "bare.h5": "'patch_size' is missing", "link.h5": "no data set 'coords'", "none.h5": "there is no file of coordinates",
    }  # fmt: skip
    for name, part in words.items():
        with pytest.raises(InputError, match=part):
            read_coords(tmp_path / name)
