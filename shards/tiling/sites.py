"""Where patches are cut: on a regular grid, or at the points of a file.

    grid:    every stride, from the top left, only tiles wholly inside
    points:  image,x,y,class ──▶ a patch centred on each point, truth 1 where class is the positive one, and known mimics

Sites are left and top edges in level-0 pixels.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.cohort.cohort_table import Row, read_rows
from shards.cohort.slides import Slide
from shards.errors import InputError

UNKNOWN = -1


@dataclass(frozen=True)
class Sites:
    """The patches of one slide, in the order in which they are cut.

    Attributes:
        x_level0: (n,) int32 left edges, level-0 pixels.
        y_level0: (n,) int32 top edges, level-0 pixels.
        truth: (n,) int8: 1 positive, 0 not, -1 unknown.
    """

    x_level0: np.ndarray
    y_level0: np.ndarray
    truth: np.ndarray

    def __len__(self) -> int:
        return len(self.truth)

    def take(self, rows: Sequence[int]) -> "Sites":
        """Return the sites with these numbers."""
        index = np.asarray(rows, np.int64)
        return Sites(self.x_level0[index], self.y_level0[index], self.truth[index])


@dataclass(frozen=True)
class Points:
    """The annotated points of one slide.

    Attributes:
        xy_level0: (n, 2) float64, level-0 pixels.
        truth: (n,) int8: 1 positive, 0 not, -1 unknown.
        is_mimic: (n,) bool, the points of tile.mimic_groups; None where these are not asked for.
    """

    xy_level0: np.ndarray
    truth: np.ndarray
    is_mimic: np.ndarray | None = None


def grid_sites(width: int, height: int, patch_level0: int, stride_level0: int) -> Sites:
    """Return a regular grid from the top left corner, row by row, of the tiles that lie wholly inside the slide.

    Args:
        width: of the slide, level-0 pixels.
        height: of the slide, level-0 pixels.
        patch_level0: side of a tile, level-0 pixels.
        stride_level0: from one tile to the next, level-0 pixels.
    """
    columns = np.arange(0, width - patch_level0 + 1, stride_level0, dtype=np.int32)
    rows = np.arange(0, height - patch_level0 + 1, stride_level0, dtype=np.int32)
    x_level0 = np.tile(columns, len(rows))
    return Sites(x_level0, np.repeat(rows, len(columns)), np.full(len(x_level0), UNKNOWN, np.int8))


def point_sites(points: Points, width: int, height: int, patch_level0: int) -> Sites:
    """Return one patch centred on each point, where it lies wholly inside the slide.

    Wholly inside: the point is at least half a patch, rounded up to whole pixels, from each edge, so an odd patch (27:
    14 pixels) is inside to whichever side its centre is rounded. Points of one patch are one site, positive if any is.

    Args:
        points: the slide's points.
        width: of the slide, level-0 pixels.
        height: of the slide, level-0 pixels.
        patch_level0: side of a patch, level-0 pixels.
    """
    margin = -(-patch_level0 // 2)
    xy = points.xy_level0
    inside = np.all((xy >= margin) & (xy <= np.array([width, height]) - margin), axis=1)
    corners = np.floor(xy[inside] - patch_level0 / 2 + 0.5).astype(np.int32)  # (k, 2), the nearest pixel
    distinct, first, site_of_point = np.unique(corners, axis=0, return_index=True, return_inverse=True)
    truth = np.full(len(distinct), UNKNOWN, np.int8)
    np.maximum.at(truth, site_of_point, points.truth[inside])
    order = np.argsort(first)  # the file's order
    return Sites(distinct[order, 0], distinct[order, 1], truth[order])


def read_points(
    path: Path, slides: Sequence[Slide], positive_class: str | None, mimic_classes: Sequence[str] = ()
) -> tuple[dict[str, Points], int]:
    """Read a points file and deal its points out to the slides.

    Args:
        path: CSV with the columns image (a slide's id, or its file's name without extension), x, y (level-0 pixels)
            and class.
        slides: the cohort's slides.
        positive_class: the class whose points are positive; None leaves the truth unknown.
        mimic_classes: those that look like it and are not.

    Returns:
        The points by slide id, and the number of points whose image is none of the slides.

    Raises:
        InputError: a coordinate is no number, an image fits two slides, no image fits any, or no point is of a named class.
    """
    rows = read_rows(path, required=("image", "x", "y", "class"))
    classes = {row.cells["class"] for row in rows}
    if positive_class is not None and positive_class not in classes:
        raise InputError(
            f"{path}: no point has class {positive_class!r}. Set positive_class to one of: {sorted(classes)}"
        )
    if absent := [name for name in mimic_classes if name not in classes]:
        raise InputError(f"{path}: no point has class {absent[0]!r}. Set tile.mimic_groups to some of: {sorted(classes)}")
    slide_of = _slide_of_image(rows, slides)
    by_slide: dict[str, list[tuple[float, float, int, bool]]] = defaultdict(list)
    for row in rows:
        if row.cells["image"] in slide_of:
            truth = UNKNOWN if positive_class is None else int(row.cells["class"] == positive_class)
            is_mimic = row.cells["class"] in mimic_classes
            by_slide[slide_of[row.cells["image"]]].append((row.coordinate("x"), row.coordinate("y"), truth, is_mimic))
    if not by_slide:
        raise InputError(
            f"{path}: no image in it is a slide of the table, for example {rows[0].cells['image']!r}. "
            f"Use slide ids or the names of the image files without extension"
        )
    points = {slide_id: _points(rows_of_slide, bool(mimic_classes)) for slide_id, rows_of_slide in by_slide.items()}
    return points, len(rows) - sum(map(len, by_slide.values()))


def _slide_of_image(rows: Sequence[Row], slides: Sequence[Slide]) -> dict[str, str]:
    by_id = {slide.slide_id: slide.slide_id for slide in slides}
    by_stem: dict[str, list[str]] = defaultdict(list)
    for slide in slides:
        by_stem[unicodedata.normalize("NFC", slide.path.stem)].append(slide.slide_id)
    for row in rows:
        fitting = by_stem.get(row.cells["image"], [])
        if row.cells["image"] not in by_id and len(fitting) > 1:
            raise row.error("image", f"the file name of several slides ({', '.join(fitting[:3])}). Use the slide id")
    return {stem: fitting[0] for stem, fitting in by_stem.items()} | by_id


def _points(rows: list[tuple[float, float, int, bool]], with_mimics: bool) -> Points:
    array = np.array(rows, dtype=np.float64)
    return Points(array[:, :2], array[:, 2].astype(np.int8), array[:, 3] == 1 if with_mimics else None)
