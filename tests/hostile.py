"""Words of strangers that would break a page which does not escape them, and what a browser's parser makes of a page."""

from html.parser import HTMLParser
from pathlib import Path

HOSTILE = """<script>alert('1')</script>"x" & <b onclick='y'>ä→</b>"""


class Parsed(HTMLParser):
    """The texts between tags, the values of attributes, the names of those that run code, and the scripts of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.values: list[str] = []
        self.handlers: list[str] = []
        self.scripts: list[str] = []
        self._tag = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.scripts += [""] if tag == "script" else []
        self.values += [value or "" for _, value in attrs]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._tag == "script":
            self.scripts[-1] += data
        else:
            self.texts.append(data)


def require_escaped(page: Path, num_scripts: int, *told: str) -> Parsed:
    """Assert that a page tells each of `told` as text, letter by letter, and that none of it became a tag or an attribute."""
    parsed = Parsed(page)
    for words in told:
        assert any(words in text for text in parsed.texts), words
    assert len(parsed.scripts) == num_scripts
    assert not any("alert" in script for script in parsed.scripts)
    assert parsed.handlers == []
    return parsed
