from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from shards.cohort.groups import Tally
from shards.cohort.slides import Slide
from shards.drawn.drawn_slides import make_whole_slides
from shards.errors import InputError
from shards.tiling.histogram import histogram
from shards.tiling.page import write_page
from shards.tiling.preview import preview_slides
from shards.tiling.tile import plan_cohort, tile_cohort
from shards.tiling.tile_config import TileConfig
from shards.tiling.unit import Unit
from tests.hostile import HOSTILE, require_escaped

CONFIG = TileConfig(patch_px=32, mpp=0.5, background=["otsu_saturation"], max_failed=0.5)


class Page(HTMLParser):
    """Collects the text, the pictures' sources, and tags that were never closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.sources, self.num_bars = "", [], 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name == "src"]
        self.num_bars += tag == "rect"

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def slides_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = make_whole_slides(tmp_path_factory.mktemp("drawn"), 6, 512, 32, seed=0)
    (table.parent / "bad <name>.svs").write_text("no slide")
    with open(table, "a") as file:
        file.write('"bad <slide>","bad <name>.svs",0,p9,train,\n')
    return table


def test_the_page_shows_counts_reasons_and_every_slide(tmp_path: Path, slides_csv: Path) -> None:
    summary = tile_cohort(slides_csv, tmp_path / "cohort", CONFIG)
    page = Page(tmp_path / "cohort" / "tiling.html")
    assert "Tiling: 7 slides" in page.text
    assert f"{summary.num_patches:,}" in page.text
    assert "bad <slide>failed: " in page.text  # escaped in the source
    assert "Dropped slides (1)" in page.text
    assert "annotations taken as positive: " in page.text
    assert len(page.sources) == 6
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)  # self-contained
    assert page.num_bars > 3
    with Image.open(tmp_path / "cohort" / "tiling_contact_sheet.jpg") as sheet:
        assert sheet.width > 6 * 260
    pictures = sorted(path.name for path in (tmp_path / "cohort" / "thumbnails").iterdir())
    assert pictures == [f"slide-00{number}.jpg" for number in range(6)]


def test_a_refused_cohort_has_its_page_too(tmp_path: Path, slides_csv: Path) -> None:
    with pytest.raises(InputError, match="1 of 7 slides failed"):
        tile_cohort(slides_csv, tmp_path / "cohort", CONFIG.model_copy(update={"max_failed": 0.0}))
    assert "Dropped slides (1)" in Page(tmp_path / "cohort" / "tiling.html").text


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_preview_counts_what_the_tiling_would_keep_and_cuts_nothing(
    tmp_path: Path, slides_csv: Path, num_workers: int
) -> None:
    jobs = plan_cohort(slides_csv, CONFIG).jobs
    shown = preview_slides(jobs, tmp_path / "looked", CONFIG, 3, num_workers)
    assert [job.slide.slide_id for job, _ in shown] == ["slide-000", "slide-003", "bad <slide>"]
    assert shown[2][1].failed
    names = {path.name for path in (tmp_path / "looked").iterdir()}
    assert names == {"preview", "preview.html", "preview_contact_sheet.jpg"}
    tile_cohort(slides_csv, tmp_path / "cohort", CONFIG)
    for key in ("slide-000", "slide-003"):
        preview, tiled = (tmp_path / "looked/preview" / f"{key}.jpg", tmp_path / "cohort/thumbnails" / f"{key}.jpg")
        assert preview.read_bytes() == tiled.read_bytes()


def test_words_of_strangers_stay_words(tmp_path: Path) -> None:
    seen = Slide(f"seen {HOSTILE}", tmp_path / "a.svs", "p", {f"label_{HOSTILE}": 1}, {}, None, Path("a.xml"))
    lost = Slide(f"lost {HOSTILE}", tmp_path / "b.svs", "p", {f"label_{HOSTILE}": None}, {}, None, Path(HOSTILE))
    (tmp_path / "thumbnails").mkdir()
    Image.new("RGB", (300, 200)).save(tmp_path / "thumbnails" / f"{seen.key}.jpg")
    reason = f"failed: {lost.annotation}: {HOSTILE}"
    groups = {f"group {HOSTILE}": Tally("positive", 1, 0, 100.0)}
    units = [Unit("", "done", 300, 200, 0.5, "header", num_patches=3, groups=groups), Unit("", reason)]
    write_page(tmp_path, [seen, lost], units, {"points_file": HOSTILE, f"key {HOSTILE}": 1})
    told = (seen.slide_id, lost.slide_id, reason, f"label_{HOSTILE} 1", HOSTILE, f"key {HOSTILE}", f"group {HOSTILE}")
    parsed = require_escaped(tmp_path / "tiling.html", 0, *told)
    assert f"overview of {seen.slide_id}" in parsed.values
    assert f"thumbnails/{seen.key}.jpg" in parsed.values


def test_the_words_at_the_median_stay_inside_the_picture() -> None:
    drawn = {share: histogram([share] * 9 + [100]) for share in (2, 50, 99)}
    anchors = [made.median.anchor for made in drawn.values() if made is not None]
    assert anchors == ["start", "middle", "end"]
    assert sum(bar.height for bar in drawn[50].bars) == pytest.approx(200 * (1 + 1 / 9))  # type: ignore[union-attr]
    assert histogram([]) is None
