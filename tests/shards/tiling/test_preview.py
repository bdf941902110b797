"""A preview tells what tiling would give, and says why where it would give nothing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.tiling.cut import tile_slide
from shards.tiling.preview import preview_slide, preview_slides
from shards.tiling.tile import plan_cohort
from shards.tiling.tile_config import TileConfig
from shards.tiling.unit import SlideJob

CONFIG = TileConfig(patch_px=16, background=["otsu_saturation"])


@pytest.fixture
def jobs(tmp_path: Path) -> list[SlideJob]:
    """Five images of which 0 to 4 columns of patches are tissue; the file of the last but one is missing."""
    rows = ["slide_id,path,label"]
    for number in range(5):
        pixels = np.full((32, 64, 3), 244, np.uint8)
        pixels[:, : 16 * number] = (200, 120, 180)
        Image.fromarray(pixels).save(tmp_path / f"s{number}.png")
        rows.append(f"s{number},s{number}.png,{number % 2}")
    (tmp_path / "s3.png").unlink()
    (tmp_path / "slides.csv").write_text("\n".join(rows) + "\n")
    return plan_cohort(tmp_path / "slides.csv", CONFIG).jobs


def test_it_counts_what_tiling_gives(jobs: list[SlideJob], tmp_path: Path) -> None:
    for number in (0, 2, 4):
        preview = preview_slide(jobs[number], tmp_path / "preview", CONFIG)
        tiled = tile_slide(jobs[number], tmp_path / "cohort", CONFIG)
        assert tiled is not None
        assert preview.num_patches == tiled.unit.num_patches == 2 * number
        assert (preview.num_background, preview.status) == (tiled.unit.num_background, tiled.unit.status)
    assert (
        preview_slide(jobs[0], tmp_path, CONFIG).status
        == "empty: no tissue on the thumbnail (background: otsu_saturation)"
    )
    assert "there is no such file" in preview_slide(jobs[3], tmp_path, CONFIG).status


@pytest.mark.parametrize(
    ("asked", "chosen"), [(1, ["s0"]), (3, ["s0", "s2", "s4"]), (9, ["s0", "s1", "s2", "s3", "s4"])]
)
def test_slides_are_spread_over_the_table(jobs: list[SlideJob], tmp_path: Path, asked: int, chosen: list[str]) -> None:
    shown = preview_slides(jobs, tmp_path / "cohort", CONFIG, asked)
    assert [job.slide.slide_id for job, _ in shown] == chosen
    assert len(list((tmp_path / "cohort" / "preview").iterdir())) == len(set(chosen) - {"s3"})


def test_a_slide_that_fails_now_shows_no_picture_of_an_earlier_preview(jobs: list[SlideJob], tmp_path: Path) -> None:
    cohort, chosen = tmp_path / "cohort", [jobs[2], jobs[4]]
    preview_slides(chosen, cohort, CONFIG, 2)
    assert (cohort / "preview_contact_sheet.jpg").is_file()
    shown = preview_slides(chosen, cohort, CONFIG.model_copy(update={"mpp": 0.5}), 2)  # nobody tells the mpp
    assert all("microns per pixel are unknown" in unit.status for _, unit in shown)
    page = (cohort / "preview.html").read_text()
    assert "Dropped slides (2)" in page
    assert "data:image/jpeg" not in page
    assert not list((cohort / "preview").iterdir())
    assert not (cohort / "preview_contact_sheet.jpg").exists()
