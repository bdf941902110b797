"""What the pages of a run and of a cross-validation are made of: their templates, and how they say figures and settings.

A page is one self-contained file: pictures are embedded, nothing is asked of the network.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hnm.config import Config, flatten
from hnm.report.words import WORDS
from shards.tiling import render

REPORT_FILE = "report.html"

Box = tuple[str, list[str]]  # a figure, and the lines that explain it


def write_page(path: Path, template: str, **values: Any) -> None:
    """Write the page that a template of this room makes of `values`, whole or not at all."""
    templates = render.environment("hnm.report")
    templates.globals["words"] = WORDS
    templates.filters |= {"digits": digits, "count": "{:,.0f}".format, "data_url": data_url}
    render.write_page(path, templates, template, **values)


def name_of(folder: Path) -> str:
    """Return how a folder is called in its page: with its parent, for many are called "run"."""
    folder = folder.resolve()
    return f"{folder.parent.name}/{folder.name}"


def settings_of(config: Config) -> list[tuple[str, str, bool]]:
    """Return name, value and whether that is the default, of all settings; secrets hide themselves."""
    default, given = flatten(Config().model_dump(mode="json")), flatten(config.model_dump(mode="json"))
    return [(key, str(value), default.get(key) == value) for key, value in given.items()]


def link_to(path: Path, folder: Path) -> str:
    """Return a file's address in a page that lies in `folder`."""
    return quote(os.path.relpath(path, folder))


def data_url(path: Path) -> str:
    """Return a picture as a data URL."""
    return render.data_url(path.read_bytes(), path.suffix)


def digits(value: Any) -> str:
    """Return a figure: three digits after the point; None is not defined."""
    if value is None:
        return "not defined"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def interval_lines(interval: Mapping[str, Any] | None, few: str = "") -> list[str]:
    """Return a line with the 95 % interval, none where there is no interval, and one with `few`: see `few_patients`."""
    if not interval or interval["low"] is None:
        return []
    return [f"95 %: {interval['low']:.3f} to {interval['high']:.3f}", *([few] if few else [])]


def duration(seconds: float) -> str:
    """Return how long something took, in the unit that fits."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
