"""What tests of pages share: the words and links of one, and how a user sorts and filters its table in a browser."""

from html.parser import HTMLParser
from pathlib import Path

from tests.chromium import Page


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


def require_self_contained(page: Path) -> Text:
    """Assert that a page asks nobody for anything, and that its links lead somewhere; return its text."""
    found = Text(page)
    assert all(image.startswith("data:image/") for image in found.images)
    for link in found.links:
        assert link.startswith("#") or (page.parent / link).is_file(), link
        assert not link.startswith("#") or link[1:] in found.ids, link
    assert len(found.ids) == len(set(found.ids))
    source = page.read_text(encoding="utf-8")
    assert not any(f"{name}={quote}{start}" in source for name in ("src", "href") for quote in ("'", '"', "")
                   for start in ("http:", "https:", "//"))  # fmt: skip
    return found


def require_fits(page: Page, width: int, num_images: int) -> None:
    """Assert that all images of an open page load and nothing sticks out to the side."""
    widths = page.run("Promise.all([...document.images].map(image => image.decode().then(() => image.naturalWidth)))")
    assert len(widths) == num_images
    assert all(value > 0 for value in widths)
    assert page.run("document.documentElement.scrollWidth") <= width


def column(page: Page, number: int) -> list[str]:
    """Return what a user sees in a column of the table of slides."""
    rows = "[...document.querySelectorAll('#slide-table tbody tr')].filter(row => row.offsetHeight > 0)"
    return list(page.run(f"{rows}.map(row => row.cells[{number}].innerText)"))


def sort_by(page: Page, number: int) -> str:
    """Click on a column's heading; return how the table says that it is sorted by it."""
    page.run(f"document.querySelectorAll('#slide-table th button')[{number}].click()")
    return str(page.run(f"document.querySelectorAll('#slide-table th')[{number}].getAttribute('aria-sort')"))


def choose(page: Page, control: str, value: str) -> None:
    """Set a filter."""
    page.run(f"document.getElementById('{control}').value = '{value}'")
    page.run(f"document.getElementById('{control}').dispatchEvent(new Event('input'))")
