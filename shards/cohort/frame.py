"""Whose corner the coordinates of annotations count from, where a scan begins inside its slide.

    level 0 of OpenSlide ┌──────────────────┐
                         │   bounds ┌─────┐ │   openslide.bounds-x, -y, -width, -height: MIRAX, Leica SCN, some Ventana
                         │          │scan │ │   "qupath": (0, 0) is the corner of the bounds
                         └──────────┴─────┴─┘   "level0": (0, 0) is the corner of level 0, as ASAP and HALO count

QuPath crops to the bounds since 0.2 (OpenslideImageServer.java: readTile adds boundsX and boundsY where all four are
told; its author in github.com/qupath/qupath/issues/1278), so what it writes and reads counts from there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import shapely

from shards.cohort.annotations import OUTSIDE_SHARE, Annotation
from shards.errors import InputError

FrameName = Literal["qupath", "level0"]


class Bounds(NamedTuple):
    """Where the scan lies in its slide, level-0 pixels."""

    x_level0: int
    y_level0: int
    width: int
    height: int


@dataclass(frozen=True)
class Frame:
    """Where (0, 0) of a slide's annotations and points lies.

    Attributes:
        name: "qupath", "level0", or "": the scan begins at the corner of level 0, so that both are one.
        x_level0: level-0 pixels.
        y_level0: level-0 pixels.
    """

    name: str = ""
    x_level0: int = 0
    y_level0: int = 0

    @property
    def corner_level0(self) -> np.ndarray:
        """Where (0, 0) lies, (2,) float64."""
        return np.array([self.x_level0, self.y_level0], np.float64)

    def to_level0(self, annotation: Annotation) -> Annotation:
        """Return an annotation as it was read in level-0 pixels."""
        if self.x_level0 == self.y_level0 == 0:
            return annotation
        area = shapely.transform(annotation.area, lambda xy: xy + self.corner_level0)
        return replace(annotation, area=area, points_level0=annotation.points_level0 + self.corner_level0)


NO_FRAME = Frame()


def frame_of(bounds: Bounds | None, wanted: FrameName) -> Frame:
    """Return the frame of a slide with these bounds."""
    if bounds is None or (bounds.x_level0, bounds.y_level0) == (0, 0):
        return NO_FRAME
    return Frame("qupath", bounds.x_level0, bounds.y_level0) if wanted == "qupath" else Frame("level0")


def frame_of_row(row: Mapping[str, Any]) -> Frame:
    """Return the frame in which a slide was tiled, as its row of slides.parquet tells; cohorts without bounds don't."""
    return Frame(row.get("annotation_frame") or "", row.get("frame_x_level0") or 0, row.get("frame_y_level0") or 0)


def require_in_frame(xy: np.ndarray, frame: Frame, bounds: Bounds | None, path: Path) -> None:
    """Refuse coordinates that do not fit the scan in this frame, and would in the other.

    Args:
        xy: (n, 2) float64 as they were read.
        frame: in which they are taken.
        bounds: of the scan.
        path: their file.

    Raises:
        InputError: most lie outside of the scan.
    """
    if not frame.name or bounds is None or not len(xy):
        return
    corner = np.array([bounds.x_level0, bounds.y_level0], np.float64)
    here, there = (corner, 0.0 * corner) if frame.name == "qupath" else (0.0 * corner, corner)
    if _share_in(bounds, xy + here) >= _share_in(bounds, xy + there) or _share_in(bounds, xy + here) > 0.99:
        return
    other = "level0" if frame.name == "qupath" else "qupath"
    raise InputError(
        f"{path}: its coordinates reach beyond the scan, which begins at ({bounds.x_level0}, {bounds.y_level0}) of its slide "
        f"(openslide.bounds), if they count from {_words(frame.name)}; they fit if they count from {_words(other)}. Set "
        f"tile.annotation_frame={other}, or give this slide's own annotation"
    )


def _share_in(bounds: Bounds, xy_level0: np.ndarray) -> float:
    size = np.array([bounds.width, bounds.height], np.float64)
    place = (xy_level0 - (bounds.x_level0, bounds.y_level0)) / size
    return float(np.all((place >= -OUTSIDE_SHARE) & (place <= 1 + OUTSIDE_SHARE), axis=1).mean())


def _words(name: str) -> str:
    return "the scan's corner, as QuPath's do" if name == "qupath" else "the corner of level 0, as ASAP's do"
