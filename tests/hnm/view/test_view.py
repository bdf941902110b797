"""The view of a run as one uses it: in a browser at two widths, from a folder; by both viewers; and with words of strangers."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hnm.report.record import RunRecord, read_record
from hnm.run.study import open_study
from hnm.view import pages
from hnm.view.fetch_viewer import is_fetched
from hnm.view.folder import write_folder
from hnm.view.sight import Sight
from hnm.view.site import Site
from launch.process.run_directory import read_run
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.reading.reader import PatchReader
from tests.chromium import Page, needs_chromium, open_page
from tests.hostile import HOSTILE, require_escaped
from tests.skips import NEEDS_VIEWER


@pytest.fixture(scope="module")
def record(evaluated_run: Path) -> RunRecord:
    config, folder = read_run(evaluated_run)
    return read_record(evaluated_run, config, open_study(Cohort.open(folder), config.data, config.seed))


def negative_of(record: RunRecord) -> int:
    """Return a negative training slide, in which patches are mined."""
    return next(int(slide) for slide in record.study.train if record.study.labels[slide] == 0)


def data_of(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    values: dict[str, object] = json.loads(found[1])
    return values


def soon(page: Page, condition: str) -> None:
    """Wait until a condition holds in the page."""
    end = time.monotonic() + 15
    while not page.run(condition):
        assert time.monotonic() < end, (condition, page.problems)
        time.sleep(0.02)


def press(page: Page, key: str) -> None:
    page.run(f"document.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}', bubbles: true}}))")


@needs_chromium
@pytest.mark.parametrize("viewer", ["openseadragon", "plain"])
def test_one_walks_through_the_hard_negatives_of_a_slide(
    record: RunRecord, viewer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if viewer == "plain":
        monkeypatch.setattr(pages, "is_fetched", lambda: False)
    elif not is_fetched():
        pytest.skip(f"{NEEDS_VIEWER}: python -m hnm.view.fetch_viewer")
    sight, slide = Sight(record), negative_of(record)
    with PatchReader(record.study.cohort, record.config.reader) as reader:
        assert write_folder(sight, reader, [slide, int(record.study.test[0])], tmp_path / "view") == 0
    hardest = sight.listed(slide)[0][-1]
    with open_page(tmp_path / "view" / "index.html", 1280) as page:
        assert page.run("document.querySelectorAll('#slide-table tbody tr').length") == record.study.cohort.num_slides
        address = page.run("[...document.querySelectorAll('.strip a, #slide-table a')].at(-1).href")
        assert address.endswith(".html")
        for width in (1280, 400):
            page.open((tmp_path / "view" / sight.place(slide)).as_uri(), width)
            soon(page, "stage !== null && list.length > 0 && Number.isFinite(stage.view().scale)")
            assert page.run("typeof OpenSeadragon === 'undefined'") == (viewer == "plain")
            assert page.run("document.documentElement.scrollWidth") <= width
            far = page.run("stage.view().scale")
            press(page, "n")
            assert page.run("location.hash") == f"#p={hardest[0]}"
            press(page, "+")
            soon(page, f"stage.view().scale > 1.2 * {far}")
            press(page, "n")
            assert page.run("location.hash") == f"#p={hardest[1]}"
            press(page, "p")
            rank, of_all = sight.rounds[-1].ranks(hardest[:1])[0], len(sight.rounds[-1].of_negatives)
            assert f"{rank} of {of_all}" in page.run("document.getElementById('patch').innerText")
            assert page.run("document.querySelector('#patch img').decode().then(() => true)")
            assert page.run("document.querySelectorAll('#hard .course b').length") == len(hardest) * len(sight.rounds)
            press(page, "o")
            assert not page.run("document.getElementById('overlay').checked")
            press(page, "r")
            assert page.run("document.getElementById('round').value") == "0"
            page.screenshot(tmp_path / f"{width}.png")
            assert page.problems == []


def test_a_page_says_what_the_rounds_scored_and_mined(record: RunRecord) -> None:
    site, sight, slide = Site(record, None), Sight(record), negative_of(record)
    try:
        answer = site.answer(sight.place(slide))
        assert answer is not None
        data = data_of(answer.content.decode())
        first, stop = record.study.cohort.patch_bounds[slide : slide + 2]
        assert [each["name"] for each in data["scorings"]] == ["round 0", "round 1", "round 2"]  # type: ignore[attr-defined]
        for scoring, told in zip(sight.rounds, data["scorings"], strict=True):  # type: ignore[call-overload]
            assert np.array_equal(np.array(told["scores"], np.float32), scoring.scores[first:stop])  # no bit is lost
            assert told["threshold"] == scoring.threshold.value
            own = scoring.negatives[(scoring.negatives >= first) & (scoring.negatives < stop)]
            assert told["negatives"] == (own - first).tolist()
            assert max(told["scores"]) == told["scores"][told["hard"][0]]
        tested = site.answer(sight.place(int(record.study.test[0])))
        assert tested is not None
        assert [each["name"] for each in data_of(tested.content.decode())["scorings"]] == [  # type: ignore[attr-defined]
            f"hnm evaluate (round {record.chosen})"
        ]
    finally:
        site.close()


@pytest.mark.parametrize(
    "address",
    ["../state.json", "slides/../../config.yaml", "config.yaml", "slides/nobody.html", "slides/slide-000_files/99/0_0.jpg",
     "patches/999999.jpg", "patches/-1.jpg", "/etc/passwd", "openseadragon/../site.py", "slides/slide-000.html/"],
)  # fmt: skip
def test_a_site_has_its_own_pages_and_no_files(record: RunRecord, address: str) -> None:
    site = Site(record, None)
    assert site.answer(address) is None
    site.close()


def test_words_of_strangers_stay_words(record: RunRecord) -> None:
    cohort, slide = record.study.cohort, negative_of(record)
    names = [f"slide {HOSTILE}" if at == slide else name for at, name in enumerate(cohort.slide_ids)]
    slides = cohort.slides.set_column(cohort.slides.column_names.index("slide_id"), "slide_id", pa.array(names))
    strange = replace(record, study=replace(record.study, cohort=replace(cohort, slides=slides)))
    sight = Sight(strange)
    site = Site(strange, None)
    page = record.run.parent / "strange.html"
    for address, scripts in ((sight.place(slide), 2 + is_fetched()), ("index.html", 1)):
        answer = site.answer(address)
        assert answer is not None
        page.write_bytes(answer.content)
        require_escaped(page, scripts, f"slide {HOSTILE}")
    site.close()


def test_a_folder_of_something_else_is_left_alone(record: RunRecord, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="no view of ours"):
        write_folder(Sight(record), None, [0], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
