"""Whole slides end to end: the real ones, and every kind of bad input; a slide gets its reason, the others finish."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import webdataset as wds
from PIL import Image

from benchmarks.tiling_survival import digests
from shards.cohort.cohort import Cohort
from shards.cohort.slides import read_slides
from shards.drawn.drawn_slides import make_whole_slides, write_asap
from shards.errors import InputError
from shards.resample import resize
from shards.tiling.cut import fail_slide, tile_slide
from shards.tiling.pyramid import open_pyramid
from shards.tiling.tile import plan_cohort, tile_cohort
from shards.tiling.tile_config import TileConfig
from tests import disks
from tests.paths import CMU, FROZEN, needs_slides

CONFIG = TileConfig(patch_px=32, mpp=0.5, background=["otsu_saturation"], max_failed=1.0)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whole_slides(tmp_path_factory.mktemp("drawn"), 4, 512, 32, seed=0)


def write_table(path: Path, rows: list[str], columns: str = "slide_id,path,label,annotation") -> Path:
    path.write_text("\n".join([columns, *rows]) + "\n")
    return path


@needs_slides
def test_real_slides_at_two_resolutions(tmp_path: Path) -> None:
    table = write_table(tmp_path / "s.csv", [f"cmu,{CMU},1", f"frozen,{FROZEN},0"], "slide_id,path,label")
    counts = {}
    for mpp in (0.5, 1.0):
        config = TileConfig(mpp=mpp, background=["edge_energy"], max_failed=0.5)
        summary = tile_cohort(table, tmp_path / f"{mpp}", config)
        assert list(summary.failures) == ["frozen"]
        assert "--assume-mpp" in summary.failures["frozen"]
        counts[mpp] = summary.num_patches
    # 60 as in the golden file: a patch at 0.5 is 224 px of 0.499 um. At 1.0 it is 449 px wide: 4 x 6 tiles.
    assert (counts[0.5], counts[1.0]) == (60, 13)
    summary = tile_cohort(table, tmp_path / "assumed", TileConfig(mpp=0.5, assume_mpp=0.5, background=["edge_energy"]))
    assert (summary.num_done, summary.num_failed, summary.num_assumed_mpp) == (2, 0, 1)
    assert Cohort.open(tmp_path / "assumed").slides["mpp_from"].to_pylist() == ["header", "assumed"]


@needs_slides
@pytest.mark.parametrize("stain", ["none", "macenko", "reinhard"])
def test_rows_point_at_their_jpegs_and_webdataset_reads_them(tmp_path: Path, stain: str) -> None:
    table = write_table(tmp_path / "s.csv", [f"cmu,{CMU},"], "slide_id,path,label")
    config = TileConfig(mpp=1.0, background=["white_fraction", "canny_std"], allow_unlabelled=True, stain=stain)
    tile_cohort(table, tmp_path / "cohort", config)
    cohort = Cohort.open(tmp_path / "cohort")
    patches = cohort.patches
    with open_pyramid(CMU) as slide:
        for row in range(len(patches)):
            content = cohort.shard_path(patches.shard[row]).read_bytes()[patches.offset[row] :]
            decoded = simplejpeg.decode_jpeg(content[: patches.nbytes[row]]).astype(int)
            source = slide.read(int(patches.x_level0[row]), int(patches.y_level0[row]), 449, 224).astype(int)
            if stain == "none":
                assert np.abs(decoded - source).mean() < 6
            else:  # other colours, the same picture
                assert np.corrcoef(decoded.mean(axis=2).ravel(), source.mean(axis=2).ravel())[0, 1] > 0.9
                assert np.abs(decoded - source).mean() > 4
    urls = [str(cohort.shard_path(shard)) for shard in range(len(cohort.info["shards"]))]
    samples = [sample["jpg"] for sample in wds.WebDataset(urls, shardshuffle=False).decode("rgb8")]
    assert [sample.shape for sample in samples] == [(224, 224, 3)] * len(patches)
    tile_cohort(table, tmp_path / "again", config)
    assert digests(tmp_path / "again") == digests(tmp_path / "cohort")


def test_truth_of_a_drawn_cohort(tmp_path: Path, drawn: Path) -> None:
    summary = tile_cohort(drawn, tmp_path / "cohort", CONFIG)
    cohort = Cohort.open(tmp_path / "cohort")
    positive = cohort.labels()[cohort.patches.slide] == 1
    assert set(cohort.patches.truth[~positive]) == {0}  # no file needed: the label says so
    assert summary.num_positive_patches == (cohort.patches.truth == 1).sum() > 0
    area = (cohort.patches.truth == 1).sum() * 32**2 / 2
    assert area == pytest.approx(0.45 * 0.12 * 512**2, rel=0.25)


@pytest.fixture
def outlines(tmp_path: Path, drawn: Path) -> list[str]:
    """Rows of slides whose annotation is bad, each in its own way."""
    slide = read_slides(drawn)[1].path
    square = np.array([[100, 100], [200, 100], [200, 200], [100, 200]], float)
    write_asap(tmp_path / "two.xml", [("Tumor", square[:2])])
    write_asap(tmp_path / "crossed.xml", [("Tumor", square[[0, 2, 1, 3]])])
    write_asap(tmp_path / "larger.xml", [("Tumor", square * 40)])
    return [f"{name},{slide},1,{name}.xml" for name in ("two", "crossed", "larger", "absent")]


@needs_slides
def test_bad_input_gets_its_reason_and_the_others_finish(tmp_path: Path, drawn: Path, outlines: list[str]) -> None:
    (tmp_path / "short.svs").write_bytes(CMU.read_bytes()[:700_000])
    (tmp_path / "text.svs").write_text("not a slide")
    make_whole_slides(tmp_path / "glass", 1, 512, 32, seed=0, tissue_share=0.0)
    good = [f"good,{read_slides(drawn)[0].path},0,"]
    whole = bytearray(read_slides(drawn)[0].path.read_bytes())
    whole[4_000:24_000] = bytes(20_000)
    (tmp_path / "torn.tiff").write_bytes(whole)
    bad = [
        "short,short.svs,0,",
        "torn,torn.tiff,0,",
        "text,text.svs,0,",
        "gone,gone.svs,0,",
        "glass,glass/slides/slide-000.tiff,0,",
    ]
    rows = [f"{row},P" for row in (*bad, *outlines, *good)]  # some are one file: one patient's
    table = write_table(tmp_path / "s.csv", rows, "slide_id,path,label,annotation,patient_id")
    summary = tile_cohort(table, tmp_path / "cohort", CONFIG, num_workers=2)
    slides = Cohort.open(tmp_path / "cohort").slides
    status = dict(zip(slides["slide_id"].to_pylist(), slides["status"].to_pylist(), strict=True))
    reasons = {
        "short": "failed: .*short.svs: .*cut short. Copy the file anew",  # its directory was at the end
        "torn": "failed: .*torn.tiff: OpenSlide cannot read it",
        "text": "failed: .*text.svs: a text, not a slide",
        "gone": "failed: .*gone.svs: there is no such file",
        "glass": "empty: no tissue on the thumbnail",
        "two": "failed: .*two.xml: an outline .* has 2 vertices",
        "crossed": "done",
        "larger": "failed: .*larger.xml: reaches .* outside of the slide's 512 x 512",
        "absent": "failed: .*absent.xml: there is no such annotation",
        "good": "done",
    }
    for slide_id, reason in reasons.items():
        assert re.match(reason, status[slide_id]), (slide_id, status[slide_id])
    assert (summary.num_done, summary.num_empty, summary.num_failed, summary.num_outlines_repaired) == (2, 1, 7, 1)
    with pytest.raises(InputError, match=r"7 of 10 slides failed, more than max_failed \(0\.5\) allows"):
        tile_cohort(table, tmp_path / "cohort", CONFIG.model_copy(update={"max_failed": 0.5}))
    assert tile_cohort(table, tmp_path / "cohort", CONFIG).num_tiled == 7  # failed ones are tried again, no other


def test_a_changed_annotation_makes_its_slide_stale(tmp_path: Path, drawn: Path) -> None:
    shutil.copytree(drawn.parent, tmp_path / "copy", copy_function=shutil.copy2)
    table = tmp_path / "copy" / "slides.csv"
    tile_cohort(table, tmp_path / "cohort", CONFIG)
    annotation = tmp_path / "copy" / "annotations" / "slide-001.xml"
    annotation.write_text(annotation.read_text().replace('PartOfGroup="Tumor"', 'PartOfGroup="_2"'))
    summary = tile_cohort(table, tmp_path / "cohort", CONFIG)
    assert summary.num_tiled == 1
    assert tile_cohort(table, tmp_path / "cohort", CONFIG.model_copy(update={"max_failed": 0.0})).num_tiled == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disks.small_disk(tmp_path / "disk", "900k") as folder:
        yield folder


def test_a_full_disk_fails_the_slide_and_not_the_others(tmp_path: Path, small_disk: Path, drawn: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")  # 3 MB as JPEG: it will not fit
    small = [f"s{n},{slide.path},{n % 2}" for n, slide in enumerate(read_slides(drawn))]
    table = write_table(tmp_path / "s.csv", [small[0], "noise,noise.png,0", *small[1:2]], "slide_id,path,label")
    config = TileConfig(patch_px=32, background=["edge_energy"], max_failed=0.4, jpeg_quality=70)
    summary = tile_cohort(table, small_disk / "cohort", config)
    assert list(summary.failures) == ["noise"]
    assert "No space left on device" in summary.failures["noise"]
    assert (summary.num_done, summary.num_failed) == (2, 1)
    assert not list((small_disk / "cohort" / "tmp").iterdir())
    with pytest.raises(InputError, match="No space left on device"):
        tile_cohort(table, small_disk / "cohort", config.model_copy(update={"max_failed": 0.0}))


def test_a_claimed_slide_is_left_to_its_owner(tmp_path: Path, drawn: Path) -> None:
    job = plan_cohort(drawn, CONFIG).jobs[0]
    lock = tmp_path / "cohort" / "locks" / "slide-000.json"
    lock.parent.mkdir(parents=True)
    lock.write_text(json.dumps({"host": "node17", "pid": 1, "started": "x"}))
    assert tile_slide(job, tmp_path / "cohort", CONFIG) is None
    assert fail_slide(job, tmp_path / "cohort", "reason") is None
    lock.unlink()
    outcome = fail_slide(job, tmp_path / "cohort", "reason")
    assert outcome is not None
    assert outcome.unit.status == "failed: reason"
    again = tile_slide(job, tmp_path / "cohort", CONFIG)
    assert again is not None
    assert (again.is_new, again.unit.status) == (True, "done")
    third = tile_slide(job, tmp_path / "cohort", CONFIG)
    assert third is not None
    assert not third.is_new


def test_resize_leaves_a_fitting_image_alone() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    assert resize(pixels, 4, 4) is pixels
