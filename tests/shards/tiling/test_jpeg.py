"""What is stored of a patch: its JPEG, the slide's own bytes, by any number of threads."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import simplejpeg

from shards.cohort.slides import Slide
from shards.tiling.jpeg import in_order, kept_jpegs
from shards.tiling.pyramid import open_pyramid
from shards.tiling.survey import survey_slide
from shards.tiling.tile import tile_cohort
from shards.tiling.tile_config import TileConfig
from shards.tiling.unit import SlideJob, read_unit, slide_job
from tests.paths import CMU, needs_slides
from tests.shards.tiling.test_tiff_tiles import write_jpeg_pyramid

CONFIG = TileConfig(patch_px=256, mpp=0.5, background=["none"], allow_unlabelled=True)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jpeg_pyramid(tmp_path_factory.mktemp("drawn") / "a.tiff", 1100, 1100)


def job_of(path: Path, config: TileConfig) -> SlideJob:
    return slide_job(Slide("a", path, "a", {"label": 1}, {"split": "train"}, None), None, config.model_dump(mode="json"))


def jpegs(path: Path, config: TileConfig, num_threads: int = 1) -> list[tuple[int, bytes | None, bool]]:
    with open_pyramid(path) as slide:
        survey = survey_slide(slide, job_of(path, config), config)
        return list(kept_jpegs(slide, survey, config, num_threads))


def check_own_bytes(path: Path, config: TileConfig, num_expected: int) -> None:
    """Patches that are tiles are stored without a second loss: decoded they are the slide's pixels, bit by bit."""
    patches = jpegs(path, config.model_copy(update={"keep_jpeg": True}))
    with open_pyramid(path) as slide:
        sites = survey_slide(slide, job_of(path, config), config).sites
        for number, jpeg, is_kept in patches:
            assert jpeg is not None
            pixels = slide.read(int(sites.x_level0[number]), int(sites.y_level0[number]), config.patch_px, config.patch_px)
            assert (simplejpeg.decode_jpeg(jpeg) == pixels).all() == is_kept
    assert sum(is_kept for *_, is_kept in patches) == num_expected


def test_a_patch_that_is_a_tile_keeps_its_bytes(slide: Path) -> None:
    check_own_bytes(slide, CONFIG, num_expected=16)  # tiles of the rim reach beyond the slide's 1100 px
    check_own_bytes(slide, CONFIG.model_copy(update={"stride_px": 128}), num_expected=16)
    check_own_bytes(slide, CONFIG.model_copy(update={"patch_px": 128}), num_expected=0)
    coarse = jpegs(slide, CONFIG.model_copy(update={"mpp": 1.0, "keep_jpeg": True}))
    assert [is_kept for *_, is_kept in coarse] == [True] * 4  # tiles of level 1


@needs_slides
def test_tiles_in_rgb_keep_their_colours() -> None:
    check_own_bytes(CMU, TileConfig(patch_px=240, background=["none"]), num_expected=9 * 12)


def test_kept_bytes_and_who_has_read_the_slide_are_told(slide: Path, tmp_path: Path) -> None:
    (tmp_path / "slides.csv").write_text(f"slide_id,path,label\na,{slide},1\n")
    tile_cohort(tmp_path / "slides.csv", tmp_path / "cohort", CONFIG.model_copy(update={"keep_jpeg": True, "test_share": 0.0}))
    (unit,) = [read_unit(path) for path in (tmp_path / "cohort" / "units").iterdir()]
    assert (unit.num_patches, unit.num_kept_jpegs, unit.read_by, unit.num_openslide_reads) == (16, 16, "tiles", 0)
    page = (tmp_path / "cohort" / "tiling.html").read_text()
    assert "16 patches are the slide&#39;s own JPEG" in page or "16 patches are the slide's own JPEG" in page


def test_threads_and_subsampling(slide: Path) -> None:
    config = CONFIG.model_copy(update={"patch_px": 100})
    one = jpegs(slide, config)
    assert len(one) == 121
    assert jpegs(slide, config, num_threads=3) == one
    half = [jpeg for _, jpeg, _ in jpegs(slide, config.model_copy(update={"jpeg_subsampling": 420}))]
    assert {simplejpeg.decode_jpeg_header(jpeg)[3] for jpeg in half if jpeg} == {"420"}
    assert {simplejpeg.decode_jpeg_header(jpeg)[3] for _, jpeg, _ in one if jpeg} == {"444"}


def test_what_is_stored_is_part_of_the_fingerprint_only_where_it_is_not_as_before(slide: Path) -> None:
    young = {"jpeg_subsampling", "keep_jpeg"}
    settings = CONFIG.model_dump(mode="json")
    its = job_of(slide, CONFIG).slide
    before = slide_job(its, None, {name: value for name, value in settings.items() if name not in young})
    assert slide_job(its, None, settings).fingerprint == before.fingerprint
    others = [settings | {"jpeg_subsampling": 420}, settings | {"keep_jpeg": True}]
    assert len({slide_job(its, None, other).fingerprint for other in others} | {before.fingerprint}) == 3


def test_work_keeps_its_order_and_is_not_begun_too_early() -> None:
    begun: list[int] = []
    lock = threading.Lock()

    def work(number: int) -> int:
        with lock:
            begun.append(number)
        time.sleep(0.002 * (number % 3))
        return number * number

    with ThreadPoolExecutor(4) as pool:
        results = in_order(work, range(1000), pool, depth=8)
        assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
        assert max(begun) <= 5 + 8
        results.close()  # type: ignore[attr-defined]
    assert len(begun) <= 5 + 9


