"""The pages of a view, and the viewer that they use: OpenSeadragon where it is installed, else a plain one of ours.

    index.html  slides/KEY.html  slides/KEY_files/LEVEL/COLUMN_ROW.jpg  patches/ID.jpg  openseadragon/
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from hnm.report.page import digits
from hnm.view.fetch_viewer import FOLDER, MEMBERS, is_fetched
from hnm.view.ground import Ground
from hnm.view.sight import Sight, index_values, page_values, slide_values
from shards.tiling import render

PLAIN_VIEWER = "plain viewer (without OpenSeadragon, which python -m hnm.view.fetch_viewer fetches)"


def viewer_files() -> dict[str, Path]:
    """Return the files of OpenSeadragon by their address in a view; none where it is not installed."""
    return {f"openseadragon/{name}": FOLDER / name for name in MEMBERS.values()} if is_fetched() else {}


def index_page(sight: Sight, shown: set[int], has_picture: Callable[[int], bool]) -> str:
    """Return the index as HTML; arguments as of `index_values`."""
    return _page("index.html", **index_values(sight, shown, has_picture))


def slide_page(sight: Sight, slide: int, ground: Ground, pictures: Sequence[int] | None, shown: set[int]) -> str:
    """Return a slide's page as HTML; arguments as of `slide_values`, and the slides that have a page."""
    has_openseadragon = bool(viewer_files())
    viewer = "OpenSeadragon" if has_openseadragon else PLAIN_VIEWER
    values = page_values(sight, slide, ground, shown)
    data = slide_values(sight, slide, ground, pictures)
    return _page("slide.html", **values, data=data, viewer=viewer, has_openseadragon=has_openseadragon)


def _page(template: str, **values: object) -> str:
    templates = render.environment("hnm.view", "hnm.report")
    templates.filters |= {"digits": digits, "count": "{:,.0f}".format}
    return templates.get_template(template).render(values)
