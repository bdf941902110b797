"""`hnm import tiles`: patches that are cut already, of a folder or of Parquet, as they are."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg
from PIL import Image

from shards.cohort.cohort import Cohort
from shards.cohort.cohort_table import write_csv
from shards.errors import InputError
from shards.exchange.tiles import tiles_of_folder
from shards.reading.reader import PatchReader, ReaderConfig
from tests.command_line import assert_refused, hnm

SLIDES = ("a", "b", "c", "d", "e", "f")


@pytest.fixture
def slides_csv(tmp_path: Path) -> Path:
    rows = [(name, number % 2, "train" if number < 4 else "test", 0.5) for number, name in enumerate(SLIDES)]
    return write_csv(tmp_path / "slides.csv", ("slide_id", "label", "split", "mpp"), rows)


def _pixels(number: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (side, side, 3), np.uint8)


def _images(cohort: Path) -> np.ndarray:
    opened = Cohort.open(cohort)
    with PatchReader(opened, ReaderConfig()) as reader:
        return reader.read(np.arange(opened.num_patches)).permute(0, 2, 3, 1).numpy()


def test_pictures_of_a_folder_whose_names_tell(slides_csv: Path, tmp_path: Path) -> None:
    folder = tmp_path / "IDC" / "0"
    folder.mkdir(parents=True)
    for number, name in enumerate((*SLIDES, "other")):
        for x in (32, 0):
            Image.fromarray(_pixels(number)).save(folder / f"{name}_idx5_x{x}_y48_class{number % 2}.png")
    pattern = r"(?P<slide>\w+)_idx\d+_x(?P<x>\d+)_y(?P<y>\d+)_class(?P<truth>[01])"
    command = [
        "import",
        "tiles",
        slides_csv,
        folder.parent,
        tmp_path / "cohort",
        "--pattern",
        pattern,
        "--workers",
        "1",
    ]
    result = hnm(*command, "tile.jpeg_quality=100")
    assert result.exit_code == 0, result.output
    assert "2 patches of slides that are not in" in result.output
    cohort = Cohort.open(tmp_path / "cohort")
    assert cohort.info["settings"]["patch_px"] == 16
    assert cohort.patches.x_level0.tolist() == [0, 32] * 6
    assert cohort.patches.truth.tolist() == [0, 0, 1, 1] * 3
    error = np.abs(_images(tmp_path / "cohort")[2].astype(int) - _pixels(1))
    assert error.mean() < 3  # of a JPEG of noise at quality 100
    assert "0 tiled now" in hnm(*command, "tile.jpeg_quality=100").output


def test_jpegs_of_parquet_stay_as_they_are(slides_csv: Path, tmp_path: Path) -> None:
    jpegs = [simplejpeg.encode_jpeg(_pixels(number), 70, "RGB", "420") for number in range(12)]
    columns = {
        "slide_id": [name for name in reversed(SLIDES) for _ in range(2)], "tile_x": [0, 16] * 6, "tile_y": [0] * 12,
        "image": [{"bytes": jpeg, "path": None} for jpeg in jpegs],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "tiles.parquet", row_group_size=4)
    result = hnm("import", "tiles", slides_csv, tmp_path / "tiles.parquet", tmp_path / "cohort", "--workers", "1")
    assert result.exit_code == 0, result.output
    expected = [simplejpeg.decode_jpeg(jpegs[number]) for number in (10, 11, 8, 9, 6, 7, 4, 5, 2, 3, 0, 1)]
    np.testing.assert_array_equal(_images(tmp_path / "cohort"), np.stack(expected))
    bare = tmp_path / "bare.parquet"
    pq.write_table(pa.table({"slide_id": ["a"], "x": [0], "y": [0]}), bare)
    refused = hnm("import", "tiles", slides_csv, bare, tmp_path / "none")
    assert_refused(refused, 1, "no column for image: image or jpeg or png", "It has: slide_id, x, y")


def test_a_table_names_the_files_and_bad_patches_are_a_failed_slide(slides_csv: Path, tmp_path: Path) -> None:
    rows = []
    for number, name in enumerate(SLIDES):
        for x in (0, 16):
            Image.fromarray(_pixels(number, 16 + (name == "b" and x))).save(tmp_path / f"{name}{x}.png")
            rows.append((f"{name}{x}.png", name, 0 if name == "c" else x, 0, ""))
    table = write_csv(tmp_path / "tiles.csv", ("file", "slide", "x", "y", "truth"), rows[:-2])
    result = hnm("import", "tiles", slides_csv, tmp_path, tmp_path / "cohort", "--table", table, "--workers", "1")
    assert_refused(result, 1, "3 of 6 slides failed", "b16.png: 32 x 32 pixels, the first patch has 16 x 16")
    assert_refused(result, 1, "c: failed: 2 patches are at (0, 0)", "f: failed: no patch of this slide is there")


def test_what_does_not_fit_the_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a_b.png").touch()
    cases = {
        "(": "no regular expression", r"(?P<slide>\w+)": "the groups x, y are missing",
        r"(?P<slide>\w)_(?P<x>\w)(?P<y>\d*)": "finds no slide, whole numbers x and y",
    }  # fmt: skip
    for pattern, words in cases.items():
        with pytest.raises(InputError, match=re.escape(words)):
            tiles_of_folder(tmp_path, None, pattern, [])
    with pytest.raises(InputError, match="say which slide and place each file is of"):
        tiles_of_folder(tmp_path, None, None, [])
