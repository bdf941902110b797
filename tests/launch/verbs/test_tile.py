"""`hnm tile` as a user types it: shorthands, shares of an array job, merge, preview, exit codes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from benchmarks.tiling_survival import digests
from launch.cli.main import app
from launch.verbs import tile as tile_verbs
from launch.verbs.tile import TileRequest
from shards.cohort.cohort import Cohort
from shards.drawn.drawn_slides import make_whole_slides
from tests.paths import CMU, needs_slides
from tests.tiny import TILE

SETTINGS = ["tile.patch_px=32", "tile.background=otsu_saturation"]


@pytest.fixture(scope="module")
def slides_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whole_slides(tmp_path_factory.mktemp("drawn"), 6, 512, 32, seed=0)


def tile(slides_csv: Path, cohort: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["tile", str(slides_csv), str(cohort), "--workers", "1", *SETTINGS, *more])


def text_of(result: Result) -> str:
    return " ".join(result.output.split())


def test_magnification_says_what_it_became(slides_csv: Path, tmp_path: Path) -> None:
    result = tile(slides_csv, tmp_path / "c", "--magnification", "20")
    assert result.exit_code == 0
    assert "--magnification 20 is taken as tile.mpp=0.5 microns per pixel (10 / 20)" in text_of(result)
    assert Cohort.open(tmp_path / "c").info["settings"]["mpp"] == 0.5


def test_shares_and_a_merge_are_the_whole(slides_csv: Path, tmp_path: Path) -> None:
    assert tile(slides_csv, tmp_path / "whole").exit_code == 0
    for share in ("3/3", "1/3"):
        assert tile(slides_csv, tmp_path / "c", "--shard-of", share).exit_code == 0
    early = tile(slides_csv, tmp_path / "c", "--merge")
    assert early.exit_code == 1
    assert "2 of 6 slides are not tiled with these settings yet, such as 'slide-001'" in text_of(early)
    assert tile(slides_csv, tmp_path / "c", "--shard-of", "2/3").exit_code == 0
    for _ in range(2):
        assert tile(slides_csv, tmp_path / "c", "--merge").exit_code == 0
        assert digests(tmp_path / "c") == digests(tmp_path / "whole")


def test_the_exit_code_follows_max_failed(slides_csv: Path, tmp_path: Path) -> None:
    table = tmp_path / "s.csv"
    rows = slides_csv.read_text().replace(",slides/", f",{slides_csv.parent}/slides/")
    table.write_text(rows.replace(",annotations/", f",{slides_csv.parent}/annotations/") + "gone,gone.svs,0,p,train,\n")
    refused = tile(table, tmp_path / "c")
    assert refused.exit_code == 1
    assert "warning: 1 of 7 slides have no file" in text_of(refused)
    assert "1 of 7 slides failed, more than max_failed (0) allows" in text_of(refused)
    allowed = tile(table, tmp_path / "c", "--max-failed", "0.2")
    assert allowed.exit_code == 0
    assert "7 slides: 6 done, 0 empty, 1 failed; 1 tiled now" in text_of(allowed)
    assert tile(table, tmp_path / "c2", "--shard-of", "7/7").exit_code == 1
    assert tile(table, tmp_path / "c2", "--shard-of", "7/7", "--max-failed", "1").exit_code == 0


def test_a_preview_cuts_nothing(slides_csv: Path, tmp_path: Path) -> None:
    result = tile(slides_csv, tmp_path / "c", "--preview", "2")
    assert result.exit_code == 0
    assert "slide-000:" in text_of(result)
    assert "patches kept" in text_of(result)
    assert not (tmp_path / "c" / "shards").exists()
    assert "split, train: " in text_of(result)


def test_a_preview_in_which_slides_fail_ends_as_the_tiling_would(slides_csv: Path, tmp_path: Path) -> None:
    table = tmp_path / "s.csv"
    table.write_text("slide_id,path,label\na,gone.svs,1\nb,gone-too.svs,0\n")
    result = tile(table, tmp_path / "c", "--preview", "2")
    assert result.exit_code == 1
    assert "2 of 2 slides failed (tile.max_failed is 0), 0 gave patches" in text_of(result)
    assert tile(slides_csv, tmp_path / "c", "--preview", "2", "tile.patch_px=600").exit_code == 1  # no patch on any slide
    assert tile(slides_csv, tmp_path / "c", "--preview", "2").exit_code == 0


def test_a_list_of_label_columns_is_refused(slides_csv: Path, tmp_path: Path) -> None:
    result = tile(slides_csv, tmp_path / "c", "data.label_column=a,b")
    assert result.exit_code == 1
    assert "data.label_column=a,b names several columns. One is named so, of: label" in text_of(result)
    assert not (tmp_path / "c").exists()


def test_splits_and_thresholds_are_told_and_drawn(slides_csv: Path, tmp_path: Path) -> None:
    result = tile(slides_csv, tmp_path / "c")
    told = result.output
    assert "split, train: " in told
    assert told.count("Figures from fewer than 5 patients of a kind say little") == 1  # said before, and not again
    slides = Cohort.open(tmp_path / "c").slides
    assert slides["tissue_saturation"].null_count == 0
    assert {text.split()[0] for text in slides["tissue_from"].to_pylist()} <= {"otsu", "ceiling", "floor", "fixed,"}
    assert "tissue by saturation (of 255; each slide's in slides.parquet): 6 " in told
    page = (tmp_path / "c" / "tiling.html").read_text(encoding="utf-8")
    assert "<h2>Splits</h2>" in page
    assert 'class="positive"' in page
    assert "tissue above saturation " in page


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--shard-of", "0/3"], "I from 1 to N"),
        (["--shard-of", "4/3"], "I from 1 to N"),
        (["--merge", "--preview", "2"], "Give one of them"),
        (["tile.backgroud=none"], "Did you mean 'background'?"),
    ],
)
def test_misuse_is_exit_code_2(slides_csv: Path, tmp_path: Path, options: list[str], part: str) -> None:
    result = tile(slides_csv, tmp_path / "c", *options)
    assert result.exit_code == 2
    assert part in text_of(result)


def test_tile_sums_up_and_is_repeatable(tiny_slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort = tmp_path / "cohort"
    for num_tiled in (10, 0):
        assert tile_verbs.tile(TileRequest(tiny_slides, cohort, overrides=TILE, workers=1)) == 0
        out = capsys.readouterr().out
        assert f"10 slides: 10 done, 0 empty, 0 failed; {num_tiled} tiled now" in out
        assert "160 patches, 10 of them known to be positive" in out
        assert f"Look at {cohort / 'tiling.html'}. Next: hnm pretrain {cohort}" in out
    assert Cohort.open(cohort).num_patches == 160


def test_what_is_doubtful_in_the_table_is_said_before_anything_is_cut(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "abcd":
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    table, cohort = tmp_path / "slides.csv", tmp_path / "cohort"
    arguments = ["tile", str(table), str(cohort), "tile.patch_px=16"]
    rows = [f"{name},{name}.png,{number % 2}," for number, name in enumerate("abcd")]
    table.write_text("slide_id,path,label,case_id\n" + "\n".join(row + "P1" for row in rows))
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "have the same case_id, 'P1'" in result.output
    table.write_text("slide_id,path,label\n" + "\n".join(row[:-1] for row in [*rows, "e,a.png,1,"]))
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "slides 'a' and 'e' are the same file" in result.output
    assert not cohort.exists()
    table.write_text("slide_id,path,label,case_id\n" + "\n".join(f"{row}P{row[0]}" for row in rows))
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for part in ("warning: ", "the column 'case_id' is not looked at", "drawn slide by slide, for the table names no patients"):
        assert part in " ".join(result.output.split())
    assert "drawn by patient" not in " ".join(result.output.split())


@needs_slides
def test_tissue_is_found_without_being_asked(tmp_path: Path) -> None:
    table, cohort = tmp_path / "slides.csv", tmp_path / "cohort"
    (tmp_path / "other.svs").write_bytes(CMU.read_bytes() + bytes(8))  # the same file twice would be refused
    table.write_text(f"slide_id,path,label\na,{CMU},1\nb,other.svs,0\n")

    def cut(*more: str) -> str:
        result = CliRunner().invoke(app, ["tile", str(table), str(cohort), "--workers", "1", "tile.mpp=0.5", *more])
        assert result.exit_code == 0
        return text_of(result)

    told = cut()
    assert "background filter: otsu_saturation (2 whole slides); tile.background is auto" in told
    assert "108 patches" in told
    assert "2 tiled now" in told
    assert "0 tiled now" in cut("tile.background=otsu_saturation")  # the same units by its name
    told = cut("tile.background=none")
    assert "background filter: none" in told
    assert "234 patches" in told
    told = cut("--preview", "1")
    assert "otsu_saturation (2 whole slides)" in told
    assert "54 of 117 patches kept" in told


def test_plain_images_and_points_have_no_filter_of_their_own_accord(tiny_slides: Path, tmp_path: Path) -> None:
    def cut(*more: str) -> str:
        arguments = ["tile", str(tiny_slides), str(tmp_path / "c"), "--workers", "1", "tile.patch_px=16", *more]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0
        return text_of(result)

    told = cut("tile.background=none")  # as a cohort of before the default has it on record
    assert "10 tiled now" in told
    told = cut()
    assert "background filter: none (10 plain images); tile.background is auto" in told
    assert "160 patches" in told
    assert "0 tiled now" in told
    assert "10 tiled now" in cut("tile.background=otsu_saturation")
    points = ["tile.points_file=points.csv", "tile.positive_class=tumour"]
    assert "background filter: none (10 cut at points)" in cut(*points)
    assert "0 tiled now" in cut(*points, "tile.background=none")
