"""Points in a CSV file: x,y,class in level-0 pixels; and what a table without them may be."""

import csv
from pathlib import Path

import numpy as np

from shards.cohort.shapes import Drawing
from shards.cohort.slides import read_rows
from shards.errors import InputError

REQUIRED = ("x", "y", "class")


def read_csv(path: Path) -> Drawing:
    """Read the points of a CSV file.

    Raises:
        InputError: another table, or a coordinate that is no number.
    """
    _refuse_other_tables(path)
    rows = read_rows(path, REQUIRED)
    points = np.array([(row.coordinate("x"), row.coordinate("y")) for row in rows], np.float64).reshape(-1, 2)
    return Drawing([], points_level0=points, point_groups=[row.cells["class"] for row in rows])


def _refuse_other_tables(path: Path) -> None:
    """Say what a table without x, y and class is, where it is known."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = [cell.strip() for cell in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        return  # read_rows says so
    if not set(REQUIRED) <= set(header) and (what := _what_it_is(header)):
        raise InputError(f"{path}: {what}. Points are a CSV file with the columns x,y,class in level-0 pixels")


def _what_it_is(header: list[str]) -> str:
    lower = {cell.casefold() for cell in header}
    if {"patient", "stage"} <= lower:
        return (
            "this is Camelyon17's table of stages (patient,stage): it says what a slide is, not where. Make the column label of "
            "slides.csv from it, and give the XML files of lesion_annotations as annotation"
        )
    if {"slide_id", "path"} <= lower:
        return "this is a table of slides, not an annotation"
    if any("centroid x" in cell for cell in lower):
        return "this is QuPath's table of measurements, whose coordinates are microns. Export the objects as GeoJSON"
    if len(header) == 1 and any(sign in header[0] for sign in ";\t"):
        return "its cells are not separated by commas. Save it comma-separated"
    return ""
