"""What a slide's view stands on: tiles that fit together, the slide's own, and the mosaic where its file is gone."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from hnm.report.record import RunRecord, read_record
from hnm.run.study import open_study
from hnm.view.ground import OVERLAP_PX, TILE_PX, PictureTiles, SlideTiles, last_level, open_ground
from launch.process.run_directory import read_run
from shards.cohort.cohort import Cohort
from shards.drawn.drawn_slides import make_whole_slides
from shards.reading.reader import PatchReader
from shards.tiling.slide_reader import open_slide


def pixels(content: bytes | None) -> np.ndarray:
    assert content is not None
    return np.asarray(Image.open(io.BytesIO(content)))


def test_tiles_cover_each_level_and_overlap_by_a_pixel() -> None:
    ramp = np.broadcast_to((np.arange(600) // 3).astype(np.uint8)[None, :, None], (300, 600, 3)).copy()
    tiles = PictureTiles(ramp)
    last = last_level(600, 300)
    assert {level for level, _, _ in tiles.places()} == set(range(last + 1))
    of_last = sorted((column, row) for level, column, row in tiles.places() if level == last)
    assert of_last == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert pixels(tiles.tile(last, 0, 0)).shape == (TILE_PX + OVERLAP_PX, TILE_PX + OVERLAP_PX, 3)
    middle = pixels(tiles.tile(last, 1, 0))
    assert middle.shape == (TILE_PX + OVERLAP_PX, TILE_PX + 2 * OVERLAP_PX, 3)
    assert abs(int(middle[9, 1, 0]) - TILE_PX // 3) <= 3  # its second column is where the tile begins
    assert pixels(tiles.tile(0, 0, 0)).shape == (1, 1, 3)
    assert [tiles.tile(*place) for place in ((last, 3, 0), (last, 0, 2), (last + 1, 0, 0), (0, 0, -1))] == [None] * 4


def test_a_pyramid_is_read_tile_by_tile_as_it_is(tmp_path: Path) -> None:
    make_whole_slides(tmp_path, 2, 352, 32, seed=0)
    path = next((tmp_path / "slides").glob("*.tif*"))
    with open_slide(path) as opened:
        tiles, whole = SlideTiles(opened), opened.thumbnail(352)[0]  # type: ignore[arg-type]
        tile = pixels(tiles.tile(last_level(352, 352), 0, 0))
        assert tiles.tile(last_level(352, 352), 9, 0) is None
    assert tile.shape == (TILE_PX + OVERLAP_PX, TILE_PX + OVERLAP_PX, 3)
    assert np.abs(tile.astype(int) - whole[: len(tile), : len(tile)]).mean() < 4


@pytest.fixture(scope="module")
def record(evaluated_run: Path) -> RunRecord:
    config, folder = read_run(evaluated_run)
    cohort = Cohort.open(folder)
    return read_record(evaluated_run, config, open_study(cohort, config.data, config.seed))


def test_where_the_slide_is_gone_the_patches_are_its_picture(record: RunRecord) -> None:
    cohort = record.study.cohort
    at = cohort.slides.column_names.index("path")
    gone = cohort.slides.set_column(at, "path", pa.array(["/nowhere/gone.svs"] * cohort.num_slides))
    moved = replace(record, study=replace(record.study, cohort=replace(cohort, slides=gone)))
    with PatchReader(cohort, record.config.reader) as reader:
        with open_ground(record, reader, 3, is_bounded=False) as ground:
            assert ground.words == ""
            there = pixels(ground.tiles.tile(ground.last_level, 0, 0))
        with open_ground(moved, reader, 3, is_bounded=True) as mosaic:
            pasted = pixels(mosaic.tiles.tile(mosaic.last_level, 0, 0))
    assert "there is no such file" in mosaic.words
    assert "mosaic" in mosaic.words
    assert (mosaic.width, mosaic.height, mosaic.level0_per_px) == (ground.width, ground.height, 1.0)
    assert np.abs(there.astype(int) - pasted).mean() < 8  # JPEG twice, of 16-px patches
    with open_ground(moved, None, 3, is_bounded=True) as plain:  # features in the place of pictures
        assert "shown alone" in plain.words
        assert len(np.unique(pixels(plain.tiles.tile(plain.last_level, 0, 0)))) == 1
