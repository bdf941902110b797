"""A view as a folder that opens from a disk, on any machine: a bounded picture of each slide, and the listed patches'."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hnm.view.ground import PictureTiles, images_of, jpeg, open_ground
from hnm.view.pages import index_page, slide_page, viewer_files
from hnm.view.sight import Sight
from shards.cohort.slides import slide_key
from shards.errors import InputError
from shards.files import whole_file, write_json
from shards.reading.reader import PatchReader

MARK = "view.json"  # a folder that has it is ours to replace
MAX_ALL_PICTURES = 400  # patches of a slide whose pictures are all written, 4 MB at 224 px
PATCHES_AT_ONCE = 128


def write_folder(sight: Sight, reader: PatchReader | None, slides: Iterable[int], out: Path) -> int:
    """Write the view of some slides; return how many pictures of patches could not be read.

    Args:
        sight: the run.
        reader: of the cohort's patches; None: it has features in the place of pictures.
        slides: numbers of scored slides, in order.
        out: the folder; a view that is there is replaced.

    Raises:
        InputError: `out` holds something else.
    """
    slides = list(slides)
    _make_empty(out)
    for place, path in viewer_files().items():
        (out / place).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, out / place)
    wanted = {slide: _pictured(sight, slide) for slide in slides}
    of_cohort = [ids for _, ids in sight.hardest_of_cohort()]
    written = _write_pictures(reader, np.unique(np.concatenate([*wanted.values(), *of_cohort, np.empty(0, np.int64)])), out)
    for slide in slides:
        pictures = wanted[slide][np.isin(wanted[slide], written)]
        _write_slide(sight, reader, slide, pictures, set(slides), out)
    known = set(written.tolist())
    _write_text(out / "index.html", index_page(sight, set(slides), known.__contains__))
    return len(np.unique(np.concatenate([*wanted.values(), *of_cohort, np.empty(0, np.int64)]))) - len(written) if reader else 0


def _make_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARK).is_file())):
        raise InputError(f"--out {out}: exists and is no view of ours. Name another folder, or remove it")
    for name in ("slides", "patches", "openseadragon"):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / "index.html").unlink(missing_ok=True)
    for name in ("slides", "patches"):
        (out / name).mkdir(parents=True)
    write_json(out / MARK, {"written_by": "hnm view"})


def _pictured(sight: Sight, slide: int) -> np.ndarray:
    """Return the increasing ids of a slide's patches whose pictures go into the folder."""
    own = np.arange(*sight.record.study.cohort.patch_bounds[slide : slide + 2])
    if len(own) <= MAX_ALL_PICTURES:
        return own
    hard, high = sight.listed(slide)
    return np.unique(np.concatenate([*hard, *high, own[:0]]))


def _write_pictures(reader: PatchReader | None, ids: np.ndarray, out: Path) -> np.ndarray:
    """Write pictures of patches; return the ids of those that could be read."""
    written: list[int] = []
    for start in range(0, len(ids) if reader else 0, PATCHES_AT_ONCE):
        assert reader is not None
        part = ids[start : start + PATCHES_AT_ONCE]
        for patch, image in zip(part.tolist(), images_of(reader, part), strict=True):
            if image is not None:
                (out / "patches" / f"{patch}.jpg").write_bytes(jpeg(image))
                written.append(patch)
    return np.array(written, np.int64)


def _write_slide(
    sight: Sight, reader: PatchReader | None, slide: int, pictures: np.ndarray, shown: set[int], out: Path
) -> None:
    tiles_folder = out / "slides" / f"{slide_key(sight.name(slide))}_files"
    with open_ground(sight.record, reader, slide, is_bounded=True) as ground:
        assert isinstance(ground.tiles, PictureTiles)
        for level, column, row in ground.tiles.places():
            path = tiles_folder / str(level) / f"{column}_{row}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(ground.tiles.tile(level, column, row) or b"")
        _write_text(out / sight.place(slide), slide_page(sight, slide, ground, pictures.tolist(), shown))


def _write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
