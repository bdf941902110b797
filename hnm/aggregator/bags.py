"""Bags: the features of whole slides, memory-mapped from the files that the ranks wrote.

features/index.json            slides (rows are in this order), rows of each slide, rows of each file
features/rows-000000000000-000000032768.npy ...      (rows, dim) float16, one file after another
"""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from hnm.engine.ranks import World, seen, wait_until_seen
from shards.files import plain_name, write_json

MOST_OPEN = 64  # files of a process: 64 ranks write 1,024 files, and a process may often open no more than that


def as_rows(features: torch.Tensor, name_of: Callable[[int], str]) -> np.ndarray:
    """Return features (n, dim) as the float16 rows that are kept.

    Args:
        features: of one batch, on any device.
        name_of: what to call the patch at a place of the batch.

    Raises:
        FloatingPointError: a number is not finite, or beyond what float16 holds: with it every score of the slide
            would be NaN, or worse, look like a score.
    """
    with np.errstate(over="ignore"):  # told below
        rows = features.cpu().numpy().astype(np.float16)
    broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(broken):
        raise FloatingPointError(
            f"{name_of(int(broken[0]))} (the first of {len(broken)}): the encoder's features are not finite, or above "
            f"float16's {np.finfo(np.float16).max:.0f}. The encoder's weights are damaged, or were trained to such sizes: "
            "take those of an earlier round, or train again with a lower learning rate"
        )
    return rows


class Bags:
    """Feature rows of a set of slides, read on demand: memory holds only the bags in use.

    Args:
        folder: the features folder of a round, complete (with index.json).
        device: where bags are put.
        slides: (s,) increasing slide numbers; these alone, as if the folder had no others. None: all.
    """

    def __init__(self, folder: Path, device: torch.device, slides: np.ndarray | None = None) -> None:
        self.folder = folder
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        names = [plain_name(name, folder / "index.json") for name in index["files"]]
        self.part_starts = np.array([0, *(rows_of_file(name)[1] for name in names)])
        self.part = lru_cache(MOST_OPEN)(lambda i: np.load(folder / names[i], mmap_mode="r"))  # closed when it is let go
        starts = np.concatenate([[0], np.cumsum(index["rows_per_slide"])])
        here = range(len(starts) - 1) if slides is None else np.flatnonzero(np.isin(index["slides"], slides)).tolist()
        self.first_rows = starts[:-1][here]  # in the files, of each slide
        self.starts = np.concatenate([[0], np.cumsum(np.diff(starts)[here])])  # as they are counted here
        numbers = [index["slides"][i] for i in here]
        self.rows_of_slide = {slide: (int(self.starts[i]), int(self.starts[i + 1])) for i, slide in enumerate(numbers)}
        self.num_rows, self.dim = int(self.starts[-1]), self.part(0).shape[1]
        self.device = device

    def of_slides(self, slides: np.ndarray) -> "Bags":
        """Return the bags of some of the slides (s,), increasing."""
        return Bags(self.folder, self.device, slides)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) as (stop - start, dim) float32 on the device, whichever files they lie in."""
        return torch.from_numpy(self.stored(start, stop)).to(self.device).float()

    def stored(self, start: int, stop: int) -> np.ndarray:
        """Return a copy of rows [start, stop) as they are kept, (stop - start, dim) float16 or, of other tools, float32."""
        first, last = np.searchsorted(self.starts, [start, max(start, stop - 1)], side="right") - 1
        pieces: list[np.ndarray] = []
        for i in range(first, min(last + 1, len(self.first_rows))):
            offset = self.first_rows[i] - self.starts[i]
            low, high = max(start, self.starts[i]), min(stop, self.starts[i + 1])
            pieces += self._rows_of_files(int(low + offset), int(high + offset))
        return np.concatenate(pieces or [self.part(0)[:0]])

    def _rows_of_files(self, start: int, stop: int) -> list[np.ndarray]:
        """Return rows [start, stop) of all files one after another, in pieces."""
        first, last = np.searchsorted(self.part_starts, [start, stop], side="right") - 1
        return [
            self.part(i)[max(start - self.part_starts[i], 0) : stop - self.part_starts[i]]
            for i in range(first, min(last + 1, len(self.part_starts) - 1))
        ]

    def some(self, slide: int, places: np.ndarray | None) -> np.ndarray:
        """Return a copy of some rows of a slide as they are kept, (n, dim) float16 or, of other tools, float32.

        Args:
            places: (n,) increasing places among the slide's rows; None: all.
        """
        start, stop = self.rows_of_slide[slide]
        if places is None:
            return self.stored(start, stop)
        number = int(np.searchsorted(self.starts, start, side="right")) - 1
        rows = self.first_rows[number] + places
        files = np.searchsorted(self.part_starts, rows, side="right") - 1
        return np.concatenate([self.part(int(i))[rows[files == i] - self.part_starts[i]] for i in np.unique(files)])

    def bag(self, slide: int) -> torch.Tensor:
        """Return the features of one slide, (patches, dim) float32."""
        return self.rows(*self.rows_of_slide[slide])


def open_bags(folder: Path, world: World, slides: np.ndarray | None = None) -> Bags:
    """Return the bags of features that the ranks have just written, or of some of their slides. Every rank may call it.

    Raises:
        InputError: this rank's machine does not see the others' files, see `wait_until_seen`.
    """
    index = json.loads(seen(folder / "index.json", world).read_text(encoding="utf-8"))
    wait_until_seen(folder, index["files"], world)
    return Bags(folder, world.device, slides)


def features_complete(folder: Path) -> bool:
    """Return whether all ranks' features of a round are there."""
    return (folder / "index.json").is_file()


def write_index(folder: Path, slides: np.ndarray, rows_per_slide: np.ndarray, files: list[str]) -> None:
    """Declare the features in `folder` complete.

    Args:
        slides: (s,) increasing slide numbers.
        rows_per_slide: (s,) int.
        files: their names, in the order of the rows.
    """
    write_json(
        folder / "index.json",
        {"slides": slides.tolist(), "rows_per_slide": rows_per_slide.tolist(), "files": files},
    )


def file_of_rows(start: int, stop: int) -> str:
    """Return the name of the file that holds the feature rows [start, stop)."""
    return f"rows-{start:012d}-{stop:012d}.npy"


def rows_of_file(name: str) -> tuple[int, int]:
    """Return the feature rows [start, stop) that a file holds, from its name."""
    _, start, stop = name.removesuffix(".npy").split("-")
    return int(start), int(stop)
