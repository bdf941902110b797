"""A file is known again under another name; what only looks alike is another file."""

import shutil
from pathlib import Path

import numpy as np

from shards.cohort.content import BLOCK_BYTES, WHOLE_BYTES, content_of, contents_of


def test_a_copy_is_known_and_another_file_is_not(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, 2 * WHOLE_BYTES, np.uint8)
    white = np.full(2 * WHOLE_BYTES, 255, np.uint8)  # uncompressed scans begin and end with white
    tissue = white.copy()
    tissue[WHOLE_BYTES : WHOLE_BYTES + 4 * BLOCK_BYTES] = 200
    for name, pixels in (("a.svs", image), ("white.tif", white), ("tissue.tif", tissue), ("small.png", image[:100])):
        (tmp_path / name).write_bytes(pixels.tobytes())
    shutil.copy(tmp_path / "a.svs", tmp_path / "renamed.tif")
    names = ("a.svs", "renamed.tif", "white.tif", "tissue.tif", "small.png")
    first, copy, *others = contents_of([tmp_path / name for name in names])
    assert first == copy
    assert len({first, *others}) == 4
    assert content_of(tmp_path / "gone.svs") == ""


def test_a_preview_alone_does_not_make_two_scans_one(tmp_path: Path) -> None:
    for name, size in (("a", 10), ("b", 20)):
        (tmp_path / f"{name}.mrxs").write_bytes(b"the same preview")
        (tmp_path / name).mkdir()
        (tmp_path / name / "Data0000.dat").write_bytes(bytes(size))
    assert content_of(tmp_path / "a.mrxs") != content_of(tmp_path / "b.mrxs")
