"""What the pages of a run and of a cross-validation are made of: pure functions from values to HTML, and their style.

A page is one self-contained file: pictures are embedded, nothing is asked of the network.
"""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hnm.config import Config, flatten
from hnm.report.pictures import Picture
from shards.files import whole_file
from shards.tiling.page import STYLE

REPORT_FILE = "report.html"
PRIVATE = ("tracking.uri", "reader.storage_options")  # may hold a password


def write_page(path: Path, name: str, parts: Iterable[str]) -> None:
    """Write a page, whole or not at all.

    Args:
        path: the file.
        name: for its title, as HTML.
        parts: of its body, as HTML.
    """
    opening = (
        "<!doctype html>\n<html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<link rel=icon href='data:,'><title>{name}: report</title>\n{STYLE}\n{OWN_STYLE}"
    )
    with whole_file(path) as temporary:
        temporary.write_text("\n".join([opening, *parts, ""]), encoding="utf-8")


def name_of(folder: Path) -> str:
    """Return how a folder is called in its page, as HTML: with its parent, for many are called "run"."""
    folder = folder.resolve()
    return html.escape(f"{folder.parent.name}/{folder.name}")


def head(name: str, links: Iterable[str], boxes: Iterable[tuple[str, str]]) -> str:
    """Return the heading, links to the page's sections, and the boxes with what one wants to know first.

    Args:
        name: as HTML.
        links: ids of the sections, which are their names too.
        boxes: figure and explanation, as HTML.
    """
    return (
        f"<h1>{name}</h1>"
        f"<nav>{' · '.join(f'<a href=#{target}>{target}</a>' for target in links)}</nav>"
        "<div class=figures>"
        + "".join(f"<div><b>{value}</b><span>{text}</span></div>" for value, text in boxes)
        + "</div>"
    )


def warnings_part(warnings: Sequence[str], none: str) -> str:
    """Return the section of warnings, plain text each; `none` says what their absence means."""
    if not warnings:
        return f"<h2 id=warnings>Warnings</h2><p>None: {none}."
    items = "".join(f"<li>{html.escape(text)}" for text in warnings)
    return f"<h2 id=warnings>Warnings ({len(warnings)})</h2><ul class=warnings>{items}</ul>"


def pictures_part(pictures: Iterable[Picture]) -> str:
    """Return the section of pictures, each embedded under its heading and caption, or the reason why it is not there."""
    return "<h2 id=pictures>Pictures</h2>" + "".join(_picture(picture) for picture in pictures)


def _picture(picture: Picture) -> str:
    heading = f"<h3 id={picture.name}>{picture.title}</h3>"
    if picture.path is None:
        return f"{heading}<p class=missing>Not drawn: {html.escape(picture.reason)}."
    alt = html.escape(picture.title, quote=True)
    image = f"<img class=picture alt='{alt}' src='{data_url(picture.path)}'>"
    return f"{heading}<p class=note>{html.escape(picture.caption)}<div class=scroll>{image}</div>"


def settings_part(config: Config) -> str:
    """Return the section of settings, all of them but those that may hold a password."""
    default, given = flatten(Config().model_dump(mode="json")), flatten(config.model_dump(mode="json"))
    rows = "".join(
        f"<tr{' class=changed' if default.get(key) != value else ''}><td>{html.escape(key)}<td>{html.escape(str(value))}"
        for key, value in given.items()
        if not key.startswith(PRIVATE)
    )
    return (
        "<h2 id=configuration>Configuration</h2><details><summary>config.yaml; bold: not the default</summary>"
        f"<table>{rows}</table></details>"
    )


def facts_table(facts: Mapping[str, str]) -> str:
    """Return a table of names and values, both plain text."""
    rows = "".join(f"<tr><td>{html.escape(key)}<td>{html.escape(value)}" for key, value in facts.items())
    return f"<div class=scroll><table>{rows}</table></div>"


def data_url(path: Path) -> str:
    """Return a picture as a data URL."""
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def digits(value: Any) -> str:
    """Return a figure as HTML: three digits after the point; None is not defined."""
    if value is None:
        return "not defined"
    return f"{value:.3f}" if isinstance(value, float) else html.escape(str(value))


def interval_line(interval: Mapping[str, Any] | None) -> str:
    """Return a second line with the 95 % interval, "" where there is none."""
    if not interval or interval["low"] is None:
        return ""
    return f"<br>95 %: {interval['low']:.3f} to {interval['high']:.3f}"


def duration(seconds: float) -> str:
    """Return how long something took, in the unit that fits."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


OWN_STYLE = """<style>
h3{font-size:1em;margin:1.4em 0 .2em}nav{margin:.2em 0 1em}code{background:#f3f5f7;padding:.1em .3em}
.note{color:#59636e;margin:.2em 0 .5em}.missing{color:#7a5600;background:#fff1d6;padding:.5em .8em;border-radius:8px}
ul.warnings{background:#fff1d6;border-radius:8px;padding:.7em 1em .7em 2em;overflow-wrap:anywhere}
.scroll{overflow-x:auto}table.wide td,table.wide th{white-space:nowrap}
table.wide th{vertical-align:bottom}#rounds+.scroll th,#figures+.scroll th{white-space:normal}
#slide-table td:last-child{white-space:normal;min-width:12em}
th button{font:inherit;font-weight:bold;background:none;border:0;padding:0;cursor:pointer;color:inherit}
th button::after{content:" \\2195";color:#9aa4ae}th[aria-sort=ascending] button::after{content:" \\2191";color:#1b1f24}
th[aria-sort=descending] button::after{content:" \\2193";color:#1b1f24}
table.wide tr{background:#fff}table.wide tr.chosen{background:#eaf3fb}
table.wide td:first-child{position:sticky;left:0;background:inherit}
tr.changed td{font-weight:bold}
.filters label{margin-right:1em;display:inline-block}.filters input,.filters select{font:inherit;padding:.15em .4em}
.wrong{color:#a8480a;font-weight:bold}.none{color:#9aa4ae}
.bar{display:inline-block;min-width:7em;padding:0 .3em}
.bar{background:linear-gradient(var(--c),var(--c)) 0/var(--share) no-repeat #f3f5f7}
.bar.low{--c:#a9cfe6}.bar.high{--c:#f3b98f}
img.picture{min-width:700px;width:100%;margin:0}
figure:target{outline:3px solid #E69F00}
.figures b{white-space:nowrap}
[hidden]{display:none!important}
@media(max-width:600px){body{margin:1em auto;font-size:14px}.figures div{padding:.4em .7em}
table.wide tr{display:table-row}
table.wide th,table.wide td{display:table-cell;border-bottom:1px solid #e3e7eb;padding:.25em .9em .25em 0}
table.wide td:first-child{min-width:0}}
</style>"""
