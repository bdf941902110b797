"""report.html as a reader finds it: in a real browser at two widths, and what it says of runs that lack something."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from launch.report_verbs import numbers_of, report
from tests.chromium import needs_chromium, open_page


class Text(HTMLParser):
    """The page's visible words, links, images and ids."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.ids: list[str] = []
        self._hidden = False
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag in ("style", "script")
        known = dict(attrs)
        self.ids += [known["id"]] if known.get("id") else []  # type: ignore[list-item]
        self.links += [known["href"]] if tag == "a" else []  # type: ignore[list-item]
        self.images += [known["src"]] if tag == "img" else []  # type: ignore[list-item]

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)


def test_the_page_is_whole_and_asks_nobody(evaluated_run: Path) -> None:
    page = evaluated_run / "report.html"
    found = Text(page)
    for part in ("Warnings", "Rounds", "Pictures", "Slides", "Heatmaps", "Configuration", "Environment"):
        assert part in found.text
    assert "2 (chosen)" in found.text or "1 (chosen)" in found.text or "0 (chosen)" in found.text
    assert all(image.startswith("data:image/") for image in found.images)
    assert len(found.images) == 9 + 10
    for link in found.links:
        assert link.startswith("#") or (evaluated_run / link).is_file(), link
        assert not link.startswith("#") or link[1:] in found.ids, link
    assert len(found.ids) == len(set(found.ids))
    assert not re.search(r"(src|href)=['\"]?(https?:)?//", page.read_text(encoding="utf-8"))
    assert "mining.neg_ratio" in found.text
    assert "slide_intervals.auc.low" in found.text
    assert "instance.intervals.in_positive_auc.high" in found.text
    assert "tracking.uri" not in found.text


@needs_chromium
@pytest.mark.parametrize("width", [1280, 400])
def test_it_works_in_a_browser(evaluated_run: Path, width: int, tmp_path: Path) -> None:
    with open_page(evaluated_run / "report.html", width) as page:
        loaded = "Promise.all([...document.images].map(image => image.decode().then(() => image.naturalWidth)))"
        widths = page.run(loaded)
        assert len(widths) == 19
        assert all(value > 0 for value in widths)
        assert page.run("document.documentElement.scrollWidth") <= width  # nothing sticks out to the side

        def column(number: int) -> list[str]:
            shown = f"[...document.querySelectorAll('#slide-table tbody tr:not([hidden])')].map(r => r.cells[{number}].innerText)"
            return list(page.run(shown))

        def click(number: int) -> None:
            page.run(f"document.querySelectorAll('#slide-table th button')[{number}].click()")

        click(4)
        scores = [float(text) for text in column(4)]
        assert len(scores) == 10
        assert scores == sorted(scores)
        assert page.run("document.querySelectorAll('#slide-table th')[4].getAttribute('aria-sort')") == "ascending"
        click(4)
        assert [float(text) for text in column(4)] == sorted(scores, reverse=True)
        click(0)
        assert column(0) == [f"slide-{number:03d}" for number in range(10)]
        choose(page, "split", "test")
        assert column(2) == ["test", "test"]
        assert page.run("document.getElementById('shown').innerText") == "2 of 10 slides"
        choose(page, "split", "")
        choose(page, "search", "SLIDE-003")
        assert column(0) == ["slide-003"]
        choose(page, "search", "")
        page.run("document.querySelector('#slide-table tbody a').click()")
        assert page.run("location.hash") == "#heatmap-slide-000"
        page.screenshot(tmp_path / "page.png")
        assert page.problems == []
    assert (tmp_path / "page.png").stat().st_size > 5000


def choose(page: Any, control: str, value: str) -> None:
    """Set a filter as a user would."""
    page.run(f"document.getElementById('{control}').value = '{value}'")
    page.run(f"document.getElementById('{control}').dispatchEvent(new Event('input'))")


@needs_chromium
def test_the_browser_test_would_see_a_broken_page(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(
        "<!doctype html><title>x</title><script>console.error('no'); missing()</script><img src='http://127.0.0.1:9/a.png'>"
    )
    with open_page(tmp_path / "bad.html", 400) as page:
        page.run("new Promise(done => setTimeout(done, 100))")
        told = " ".join(page.problems)
    assert "missing is not defined" in told
    assert "request: http://127.0.0.1:9/a.png" in told
    assert "consoleAPICalled" in told or '"value": "no"' in told


def test_a_run_that_was_not_evaluated_is_shown_with_its_validation_figures(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run <1>"
    shutil.copytree(finished_run, run)
    (run / "round-002" / "mining.json").unlink()
    assert report(run, None, max_heatmaps=3) == 0
    assert f"wrote {run / 'report.html'}" in capsys.readouterr().out
    found = Text(run / "report.html")
    assert "run <1>" in found.text
    assert "1 of 2 fine-tunings are done" in found.text
    assert "The test split has not been read yet" in found.text
    assert "slide AUC, validation" in found.text
    assert len(found.images) == 8 + 3
    assert not (run / "metrics.json").exists()


def test_figures_for_tracking_are_flat_numbers() -> None:
    metrics = {
        "chosen_round": 1, "threshold": 0.5, "num_test_slides": 2, "slide": {"auc": 0.9, "f1": None},
        "instance": None, "validation": {"auc": 0.8}, "rounds": [{"round": 0}], "warnings": ["few"],
    }  # fmt: skip
    assert numbers_of(metrics) == {"num_test_slides": 2, "slide_auc": 0.9}
