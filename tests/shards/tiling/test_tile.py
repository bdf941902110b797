
import json
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg
import webdataset as wds
from PIL import Image
from pydantic import ValidationError

from shards.claim import process
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.tiling.cut import tile_slide
from shards.tiling.mpp import level0_px
from shards.tiling.tile import merge_plan, plan_cohort, tile_cohort
from shards.tiling.tile_config import TileConfig
from tests.paths import SHARED, needs_colon

CONFIG = TileConfig(patch_px=16)


def write_image(path: Path, width: int, height: int, seed: int) -> None:
    # Smooth, so that a decoded JPEG is close to the source.
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def slides_csv(tmp_path: Path) -> Path:
    """Four slides: 6, 4 and 1 patches of 16 px, and one too small for any."""
    for seed, (name, width, height) in enumerate([("a.1", 50, 40), ("b", 32, 47), ("c", 16, 16), ("tiny", 15, 90)]):
        write_image(tmp_path / f"{name}.png", width, height, seed)
    text = "slide_id,path,label,mpp\na.1,a.1.png,1,0.5\nb,b.png,0,\nc,c.png,0,\ntiny,tiny.png,,\n"
    (tmp_path / "slides.csv").write_text(text)
    return tmp_path / "slides.csv"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_cohort_from_the_grid(slides_csv: Path, tmp_path: Path) -> None:
    summary = tile_cohort(slides_csv, tmp_path / "cohort", CONFIG)
    assert (summary.num_slides, summary.num_done, summary.num_empty, summary.num_failed) == (4, 3, 1, 0)
    assert (summary.num_patches, summary.num_tiled, summary.split_drawn) == (11, 4, True)
    cohort = Cohort.open(tmp_path / "cohort")
    assert cohort.slides["status"].to_pylist() == [
        "done",
        "done",
        "done",
        "empty: no patch of 16 level-0 px lies wholly inside its 15 x 90",
    ]
    assert cohort.slides["num_patches"].to_pylist() == [6, 4, 1, 0]
    assert cohort.slides["first_patch"].to_pylist() == [0, 6, 10, 11]
    assert cohort.slides["source_mpp"].to_pylist() == [0.5, None, None, None]
    assert cohort.slides["width"].to_pylist() == [50, 32, 16, 15]
    assert set(cohort.splits()) <= {"train", "validation", "test"}
    assert cohort.patches.slide.tolist() == [0] * 6 + [1] * 4 + [2]
    assert set(cohort.patches.truth) == {-1}
    totals = cohort.info["totals"]
    assert totals["status"] == {"done": 3, "empty": 1, "failed": 0}
    assert cohort.info["settings"]["patch_px"] == 16


def test_every_row_points_at_the_jpeg_of_its_place(slides_csv: Path, tmp_path: Path) -> None:
    tile_cohort(slides_csv, tmp_path / "cohort", TileConfig(patch_px=16, jpeg_quality=95))
    cohort = Cohort.open(tmp_path / "cohort")
    patches = cohort.patches
    for row in range(len(patches)):
        source = np.asarray(Image.open(cohort.slides["path"][int(patches.slide[row])].as_py()))
        x, y, offset = patches.x_level0[row], patches.y_level0[row], patches.offset[row]
        jpeg = cohort.shard_path(patches.shard[row]).read_bytes()[offset : offset + patches.nbytes[row]]
        decoded = simplejpeg.decode_jpeg(jpeg).astype(int)
        assert np.abs(decoded - source[y : y + 16, x : x + 16]).mean() < 3


def test_stock_webdataset_reads_the_cohort(slides_csv: Path, tmp_path: Path) -> None:
    tile_cohort(slides_csv, tmp_path / "cohort", CONFIG)
    cohort = Cohort.open(tmp_path / "cohort")
    urls = [str(cohort.shard_path(shard)) for shard in range(len(cohort.info["shards"]))]
    images = [sample["jpg"] for sample in wds.WebDataset(urls, shardshuffle=False).decode("rgb8")]
    assert [image.shape for image in images] == [(16, 16, 3)] * 11


def test_a_rebuild_is_the_same_bytes(slides_csv: Path, tmp_path: Path) -> None:
    tile_cohort(slides_csv, tmp_path / "one", CONFIG)
    tile_cohort(slides_csv, tmp_path / "two", CONFIG)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_second_run_cuts_only_what_is_missing_or_stale(slides_csv: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    tile_cohort(slides_csv, cohort, CONFIG)
    first = contents(cohort)
    assert tile_cohort(slides_csv, cohort, CONFIG).num_tiled == 0
    (cohort / "units" / "b.parquet").unlink()
    (cohort / "shards" / "c-0000.tar").write_bytes(b"cut short")
    assert tile_cohort(slides_csv, cohort, CONFIG).num_tiled == 2
    assert contents(cohort) == first
    write_image(tmp_path / "b.png", 16, 16, 9)
    summary = tile_cohort(slides_csv, cohort, CONFIG)
    assert (summary.num_tiled, summary.num_patches) == (1, 8)
    assert tile_cohort(slides_csv, cohort, TileConfig(patch_px=16, jpeg_quality=50)).num_tiled == 4
    assert tile_cohort(slides_csv, cohort, TileConfig(patch_px=16, jpeg_quality=50, split_seed=1)).num_tiled == 0


def test_several_tars_per_slide_keep_their_rows(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        pixels = np.random.default_rng(seed).integers(0, 256, (1024, 640, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png", compress_level=0)
    (tmp_path / "slides.csv").write_text("slide_id,path,label\na,a.png,1\nb,b.png,0\n")
    tile_cohort(tmp_path / "slides.csv", tmp_path / "cohort", TileConfig(patch_px=128, shard_mb=1, jpeg_quality=95))
    cohort = Cohort.open(tmp_path / "cohort")
    assert cohort.info["shards"] == ["a-0000.tar", "a-0001.tar", "b-0000.tar", "b-0001.tar"]
    names = np.array([name[0] for name in cohort.info["shards"]])[cohort.patches.shard]
    np.testing.assert_array_equal(names, np.array(["a", "b"])[cohort.patches.slide])
    for shard in range(4):
        content = cohort.shard_path(shard).read_bytes()
        assert all(content[o : o + 2] == b"\xff\xd8" for o in cohort.patches.offset[cohort.patches.shard == shard])


def test_a_failed_slide_stops_the_cohort_unless_allowed(slides_csv: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    tile_cohort(slides_csv, cohort, CONFIG)
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:100])
    with pytest.raises(
        InputError, match=r"1 of 4 slides failed, more than max_failed \(0\)(.|\n)*  b: failed: .*b.png"
    ):
        tile_cohort(slides_csv, cohort, CONFIG)
    assert not (cohort / "cohort.json").exists()
    assert list((cohort / "shards").glob("b-*")) == []
    summary = tile_cohort(slides_csv, cohort, TileConfig(patch_px=16, max_failed=0.25))
    assert (summary.num_failed, summary.num_tiled, summary.num_patches) == (1, 1, 7)
    assert list(summary.failures) == ["b"]
    slides = Cohort.open(cohort).slides
    assert slides["status"][1].as_py().startswith("failed: ")
    assert slides["num_patches"].to_pylist() == [6, 0, 1, 0]
    (tmp_path / "b.png").write_bytes(whole)
    assert tile_cohort(slides_csv, cohort, CONFIG).num_patches == 11


def test_a_new_cohort_with_too_many_failures_has_no_tables(slides_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(InputError):
        tile_cohort(slides_csv, tmp_path / "cohort", CONFIG)
    names = {path.name for path in (tmp_path / "cohort").iterdir()}
    assert names == {"locks", "shards", "thumbnails", "tiling.html", "tiling_contact_sheet.jpg", "tmp", "units"}


def test_slides_can_be_cut_apart_and_merged_later(slides_csv: Path, tmp_path: Path) -> None:
    tile_cohort(slides_csv, tmp_path / "one", CONFIG)
    plan = plan_cohort(slides_csv, CONFIG)
    jobs = plan.jobs
    for job in reversed(jobs[1:]):
        tile_slide(job, tmp_path / "two", CONFIG)
    with pytest.raises(InputError, match=r"1 of 4 slides are not tiled with these settings yet, such as 'a\.1'"):
        merge_plan(plan, tmp_path / "two", CONFIG)
    tile_slide(jobs[0], tmp_path / "two", CONFIG)
    merge_plan(plan, tmp_path / "two", CONFIG)
    merge_plan(plan, tmp_path / "two", CONFIG)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_no_patch_at_all_is_an_error(slides_csv: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of 4 slides gave a patch \(0 failed\)"):
        tile_cohort(slides_csv, tmp_path / "cohort", TileConfig(patch_px=100))


def test_progress_wraps_the_slides_that_are_cut(slides_csv: Path, tmp_path: Path) -> None:
    calls = []

    def progress(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
        calls.append((description, total))
        return items

    tile_cohort(slides_csv, tmp_path / "cohort", CONFIG, progress)
    tile_cohort(slides_csv, tmp_path / "cohort", CONFIG, progress)
    assert calls == [("tiling", 4), ("tiling", 0)]


def test_a_slide_that_another_process_cuts_is_waited_for_and_not_in_silence(
    slides_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, lock = subprocess.Popen(["sleep", "60"]), tmp_path / "cohort" / "locks" / "b.json"
    owner = process(other.pid)
    lock.parent.mkdir(parents=True)
    lock.write_text(json.dumps(asdict(owner)))

    def progress(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
        for number, item in enumerate(items):
            if number == 2:  # nothing is left to do but what the other one does
                other.kill()
            yield item

    summary = tile_cohort(slides_csv, tmp_path / "cohort", CONFIG, progress)
    other.wait()
    assert capsys.readouterr().err == f"{tmp_path / 'cohort'}: slides that are left: {owner} is at work on that; waiting\n"
    assert (summary.num_done, summary.num_tiled) == (3, 4)


def test_points_give_patches_with_truth(slides_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("image,x,y,class\na.1,20,20,t\na.1,30,20,o\na.1,1,1,t\nb,8,8,o\nzz,9,9,t\n")
    config = TileConfig(patch_px=16, points_file=Path("points.csv"), positive_class="t")
    summary = tile_cohort(slides_csv, tmp_path / "cohort", config)
    assert (summary.num_done, summary.num_empty, summary.num_patches, summary.num_positive_patches) == (2, 2, 3, 1)
    assert (summary.num_points_outside, summary.num_points_unmatched) == (1, 1)
    patches = Cohort.open(tmp_path / "cohort").patches
    assert patches.truth.tolist() == [1, 0, 0]
    assert patches.x_level0.tolist() == [12, 22, 0]
    (tmp_path / "points.csv").write_text("image,x,y,class\na.1,20,20,t\na.1,30,20,t\nb,8,8,o\n")
    assert tile_cohort(slides_csv, tmp_path / "cohort", config).num_tiled == 1


def test_the_split_of_the_table_is_kept(slides_csv: Path, tmp_path: Path) -> None:
    slides_csv.write_text("slide_id,path,label,split\nb,b.png,1,test\nc,c.png,0,\n")
    assert not tile_cohort(slides_csv, tmp_path / "cohort", CONFIG).split_drawn
    assert Cohort.open(tmp_path / "cohort").splits().tolist() == ["test", ""]


def test_mpp_scales_the_patch(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 64, 64, 0)
    rows = ("fine,a.png,1,0.25,P", "same,a.png,0,0.5,P", "coarse,a.png,0,2,P", "unknown,a.png,0,,P")  # one file: one patient
    text = "slide_id,path,label,mpp,patient_id\n" + "\n".join(rows)
    (tmp_path / "slides.csv").write_text(text)
    config = TileConfig(patch_px=16, mpp=0.5, max_failed=0.5)
    summary = tile_cohort(tmp_path / "slides.csv", tmp_path / "cohort", config)
    slides = Cohort.open(tmp_path / "cohort").slides
    assert slides["num_patches"].to_pylist() == [4, 16, 0, 0]
    assert "too coarse" in summary.failures["coarse"]
    assert "column mpp" in summary.failures["unknown"]
    sizes = {simplejpeg.decode_jpeg_header(jpeg)[:2] for jpeg in all_jpegs(tmp_path / "cohort")}
    assert sizes == {(16, 16)}


def all_jpegs(root: Path) -> list[bytes]:
    cohort = Cohort.open(root)
    patches = cohort.patches
    return [
        cohort.shard_path(shard).read_bytes()[offset : offset + nbytes]
        for shard, offset, nbytes in zip(patches.shard, patches.offset, patches.nbytes, strict=True)
    ]


def test_level0_px_by_hand() -> None:
    assert level0_px(224, None, None) == 224
    assert level0_px(224, 0.5, 0.25) == 448
    assert level0_px(256, 1.0, 0.2325) == 1101


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"patch_pixels": 3}, "patch_pixels"),
        ({"patch_px": 0}, "patch_px"),
        ({"validation_share": 0.6, "test_share": 0.4}, "has to be left for training"),
        ({"positive_class": "t"}, "set points_file"),
        ({"background": "otsu"}, "none"),
    ],
)
def test_bad_settings_are_named(fields: dict[str, Any], part: str) -> None:
    with pytest.raises(ValidationError, match=part):
        TileConfig(**fields)


def test_every_field_is_described() -> None:
    assert all(field.description for field in TileConfig.model_fields.values())


@pytest.mark.slow
@needs_colon
def test_colon(tmp_path: Path) -> None:
    from benchmarks.prepare_colon import prepare

    lines = prepare(SHARED / "colon", tmp_path, seed=0)
    assert lines[:2] == [
        "100 images: 99 bags, 1 left out (no patch inside the image)",
        "51 positive bags, 48 negative",
    ]
    config = TileConfig(patch_px=27, points_file=Path("points.csv"), positive_class="epithelial")
    summary = tile_cohort(tmp_path / "slides.csv", tmp_path / "cohort", config)
    # The literature counts 20,240; three nuclei are in the file twice.
    assert (summary.num_done, summary.num_empty, summary.num_patches) == (99, 0, 20236)
    assert summary.num_positive_patches == 7031
    cohort = Cohort.open(tmp_path / "cohort")
    bounds = cohort.patch_bounds.tolist()
    bag_truth = [cohort.patches.truth[first:end].max() for first, end in pairwise(bounds)]
    np.testing.assert_array_equal(bag_truth, cohort.labels())
    assert json.loads((tmp_path / "cohort" / "cohort.json").read_text())["totals"]["patches"] == 20236
    assert pq.read_schema(tmp_path / "cohort" / "patches.parquet").names[0] == "slide"
