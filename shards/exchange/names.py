"""Which file of a folder is a slide's: by the slide's id, or by the name of its image without ending.

TRIDENT writes <slide>_patches.h5 and <slide>.h5, CLAM and AtlasPatch <slide>.h5, hs2p <slide>.coordinates.npz, HistoQC
<slide>.svs_mask_use.png.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from shards.cohort.slides import Slide
from shards.errors import InputError

ENDINGS = ("_patches", ".coordinates", "_mask_use", "_mask")  # of the name before the suffix
MAX_NAMED = 5


def files_of_slides(
    folder: Path, slides: Sequence[Slide], suffixes: Sequence[str], may_be_none: bool = False
) -> dict[str, Path]:
    """Return each slide's file by slide id, of the slides that have one.

    Args:
        folder: looked through with its sub-folders.
        suffixes: what a file may end with, such as ".h5".
        may_be_none: whether it is no mistake if no slide has a file.

    Raises:
        InputError: no such folder, no file in it is a slide's, or a slide has two.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        suffix = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), None)
        if suffix is not None and path.is_file() and not path.name.startswith("."):
            by_name[_plain(path.name[: -len(suffix)])].append(path)
    found: dict[str, Path] = {}
    for slide in slides:
        names = (slide.slide_id, slide.path.stem, slide.path.name)
        files = next((by_name[_composed(name)] for name in names if _composed(name) in by_name), [])
        if len(files) > 1:
            raise InputError(
                f"{files[0]} and {files[1]}: both are of slide {slide.slide_id!r}. Give the folder of one of them"
            )
        if files:
            found[slide.slide_id] = files[0]
    if not found and not may_be_none:
        some = ", ".join(sorted(by_name)[:MAX_NAMED]) or "no such file at all"
        raise InputError(
            f"{folder}: no file ({', '.join(suffixes)}) has the name of a slide of the table, such as "
            f"{slides[0].slide_id!r}; there is: {some}. Use slide ids, or the images' names without ending"
        )
    return found


def file_name_of(slide_id: str, key: str) -> str:
    """Return the name of a slide's file without suffix: its id as it is, or its key where the id is no file name."""
    is_plain = not set(slide_id) & set("/\\:\0") and not slide_id.startswith(".") and len(slide_id.encode()) <= 200
    return slide_id if is_plain else key


def _plain(stem: str) -> str:
    for ending in ENDINGS:
        stem = stem.removesuffix(ending)
    return _composed(stem)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
