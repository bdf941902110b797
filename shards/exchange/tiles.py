"""Patches that somebody has cut already: a folder of pictures, with a table or with names that tell, or Parquet.

    folder + tiles.csv     file, slide, x, y[, truth]
    folder + --pattern     a regular expression with the groups slide, x, y[, truth], for file names:
                           IDC      (?P<slide>\\d+)_idx\\d+_x(?P<x>\\d+)_y(?P<y>\\d+)_class(?P<truth>[01])
                           SICAPv2  (?P<slide>[^_]+)_.*_xini_(?P<x>\\d+)_yini_(?P<y>\\d+)
    Parquet                the same columns, and one with the file's bytes (or Hugging Face's struct of bytes and path)

x and y are left and top edge in the slide's level-0 pixels; truth is 1, 0 or empty.
"""

import io
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from shards.cohort.cohort_table import read_rows
from shards.cohort.slides import Slide
from shards.errors import InputError

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
COLUMNS = {  # by our name: what others call it
    "slide": ("slide", "slide_id", "sample_id"),
    "x": ("x", "x_level0", "tile_x", "coord_x"),
    "y": ("y", "y_level0", "tile_y", "coord_y"),
    "image": ("image", "jpeg", "png", "image_bytes", "bytes", "tile"),
    "truth": ("truth",),
}
TRUTHS = {"1": 1, "0": 0, "1.0": 1, "0.0": 0, "": -1}
BATCH_ROWS = 256


@dataclass(frozen=True)
class GivenTiles:
    """One slide's patches.

    Attributes:
        xy_level0: (n, 2) int32 left and top edges, level-0 pixels.
        truth: (n,) int8: 1, 0, -1 unknown.
        files: of each, for a folder.
        table: Parquet files that hold the bytes in the same order, for Parquet.
        slide: what these call the slide.
        identity: of all this, to tell whether it has changed.
    """

    xy_level0: np.ndarray
    truth: np.ndarray
    files: Sequence[Path] = ()
    table: Path | None = None
    slide: str = ""
    identity: str = ""

    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """Yield (name, the picture file's bytes) of each patch."""
        if self.table is None:
            for path in self.files:
                yield str(path), path.read_bytes()
            return
        names = _columns(_dataset(self.table).schema, self.table)
        number = 0
        for batch in _rows_of_slide(self.table, names, self.slide, [names["image"]]):
            for value in batch.column(names["image"]):
                data = value.as_py()
                yield (
                    f"{self.table}, slide {self.slide}, patch {number}",
                    data["bytes"] if isinstance(data, dict) else data,
                )
                number += 1


def tiles_of_folder(
    folder: Path, table: Path | None, pattern: str | None, slides: Sequence[Slide]
) -> tuple[dict[str, GivenTiles], int]:
    """Return the patches of each slide in a folder, by slide id, and how many pictures are of no slide of the table.

    Raises:
        InputError: neither table nor pattern, or one that does not fit the files.
    """
    if (table is None) == (pattern is None):
        raise InputError(
            f"{folder}: say which slide and place each file is of: --table tiles.csv (file,slide,x,y), or --pattern"
        )
    found = _by_table(folder, table) if table is not None else _by_pattern(folder, pattern or "")
    by_slide: dict[str, list[tuple[Path, int, int, int]]] = defaultdict(list)
    known, num_unmatched = {slide.slide_id for slide in slides}, 0
    for slide_id, path, x, y, truth in found:
        if slide_id in known:
            by_slide[slide_id].append((path, x, y, truth))
        else:
            num_unmatched += 1
    if not by_slide:
        raise InputError(
            f"{folder}: no picture is of a slide of the table, such as {slides[0].slide_id!r}. Use slide ids"
        )
    return {slide_id: _given(tiles) for slide_id, tiles in by_slide.items()}, num_unmatched


def tiles_of_parquet(path: Path, slides: Sequence[Slide]) -> tuple[dict[str, GivenTiles], int]:
    """Return the patches of each slide in a Parquet file, or a folder of them, and how many are of no slide of the table.

    Raises:
        InputError: it is none, or lacks a column.
    """
    try:
        names = _columns(_dataset(path).schema, path)
        wanted = [name for column, name in names.items() if column != "image"]
        table = _dataset(path).to_table(columns=wanted)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not readable as Parquet ({str(error).splitlines()[0]})") from None
    of_row = table[names["slide"]].cast(pa.string())
    truth = _truths(table[names["truth"]].to_pylist(), path) if "truth" in names else np.full(len(table), -1, np.int8)
    xy = np.stack([table[names[axis]].to_numpy() for axis in "xy"], axis=1)
    rows_of = {text: np.flatnonzero(pc.equal(of_row, text).to_numpy()) for text in of_row.unique().to_pylist()}
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    identity = str([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files])
    found = {
        slide.slide_id: GivenTiles(xy[rows].astype(np.int32), truth[rows], (), path, slide.slide_id, identity)
        for slide in slides
        if len(rows := rows_of.get(slide.slide_id, np.empty(0, np.int64)))
    }
    if not found:
        raise InputError(f"{path}: no patch is of a slide of the table, such as {slides[0].slide_id!r}. Use slide ids")
    return found, len(table) - sum(len(tiles.truth) for tiles in found.values())


def read_picture(data: bytes, name: str) -> np.ndarray:
    """Return a picture as (h, w, 3) uint8 RGB.

    Raises:
        InputError: it is none, or has other than 8-bit colours.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode not in ("L", "P", "RGB", "RGBA", "CMYK", "YCbCr"):
                raise InputError(f"{name}: pixels of kind {image.mode!r}. Save the picture as 8-bit RGB")
            return np.ascontiguousarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{name}: cannot be read as a picture ({error})") from None


def _given(tiles: list[tuple[Path, int, int, int]]) -> GivenTiles:
    tiles = sorted(tiles, key=lambda tile: (tile[2], tile[1], str(tile[0])))  # row by row, as hnm tile cuts
    files = [path for path, *_ in tiles]
    stats = [path.stat() for path in files]
    identity = str([(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in zip(files, stats, strict=True)])
    xy = np.array([(x, y) for _, x, y, _ in tiles], np.int32)
    return GivenTiles(xy, np.array([truth for *_, truth in tiles], np.int8), files, identity=identity)


def _by_table(folder: Path, table: Path) -> Iterator[tuple[str, Path, int, int, int]]:
    for row in read_rows(table, ("file", "slide", "x", "y"), optional=("truth",)):
        path = folder / row.cells["file"]
        if not path.is_file():
            raise row.error("file", f"there is no such file in {folder}. Correct the cell")
        truth = row.cells.get("truth", "")
        if truth not in TRUTHS:
            raise row.error("truth", "truth is 1, 0 or empty for unknown. Correct the cell")
        yield row.cells["slide"], path, round(row.coordinate("x")), round(row.coordinate("y")), TRUTHS[truth]


def _by_pattern(folder: Path, pattern: str) -> Iterator[tuple[str, Path, int, int, int]]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--pattern {pattern}: no regular expression ({error})") from None
    if missing := {"slide", "x", "y"} - compiled.groupindex.keys():
        example = r"(?P<slide>...)(?P<x>\d+)(?P<y>\d+)"
        raise InputError(f"--pattern {pattern}: the groups {', '.join(sorted(missing))} are missing. Write {example}")
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in PICTURES]
    if not files:
        raise InputError(f"{folder}: there is no picture ({', '.join(PICTURES)})")
    for path in files:
        match = compiled.search(path.stem)
        groups = match.groupdict(default="") if match else {}
        if (
            match is None
            or not (groups["x"].isdecimal() and groups["y"].isdecimal())
            or groups.get("truth", "") not in TRUTHS
        ):
            raise InputError(
                f"{path}: --pattern {pattern} finds no slide, whole numbers x and y (and truth 0 or 1) in its name"
            )
        yield groups["slide"], path, int(groups["x"]), int(groups["y"]), TRUTHS[groups.get("truth", "")]


def _columns(schema: pa.Schema, path: Path) -> dict[str, str]:
    names = {ours: next((name for name in theirs if name in schema.names), "") for ours, theirs in COLUMNS.items()}
    missing = [ours for ours in ("slide", "x", "y", "image") if not names[ours]]
    if missing:
        known = "; ".join(f"{ours}: {' or '.join(COLUMNS[ours])}" for ours in missing)
        raise InputError(f"{path}: no column for {known}. It has: {', '.join(schema.names)}. Rename columns")
    return {ours: name for ours, name in names.items() if name}


def _rows_of_slide(path: Path, names: dict[str, str], slide: str, columns: list[str]) -> Iterable[pa.RecordBatch]:
    """Yield a slide's rows; where a file is sorted by slide, its other row groups are not read."""
    data = _dataset(path)
    wanted: Any = pa.scalar(slide).cast(data.schema.field(names["slide"]).type)
    return data.to_batches(columns=columns, filter=pc.field(names["slide"]) == wanted, batch_size=BATCH_ROWS)


def _dataset(path: Path) -> Any:
    import pyarrow.dataset as ds  # here: it imports pandas, a tenth of every process's start

    return ds.dataset(path, format="parquet")


def _truths(values: list[Any], path: Path) -> np.ndarray:
    texts = ["" if value is None else str(int(value) if isinstance(value, bool) else value) for value in values]
    if unknown := set(texts) - TRUTHS.keys():
        raise InputError(f"{path}: truth is {min(unknown)!r}; it is 1, 0 or empty for unknown")
    return np.array([TRUTHS[text] for text in texts], np.int8)


def is_parquet(path: Path) -> bool:
    """Is this a Parquet file, or a folder of such files?"""
    return path.suffix == ".parquet" or (path.is_dir() and any(path.rglob("*.parquet")))


def first_side(given: dict[str, GivenTiles]) -> int:
    """Return the side of the first patch, pixels.

    Raises:
        InputError: it is no square.
    """
    name, data = next(next(iter(given.values())).pictures())
    height, width = read_picture(data, name).shape[:2]
    if height != width:
        raise InputError(f"{name}: {width} x {height} pixels; patches are squares. Cut them anew")
    return width
