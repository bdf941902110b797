"""One slide in two rows: the same file, a copy of it, another level of it, or it in another format.

    stat of each file ──same size──▶ first and last MiB ──same──▶ all bytes          told before anything is cut,
    .dcm ──▶ series            names without suffix                                  for one could train and the other test

Files of different sizes are never opened: 10,000 slides on a network drive cost a stat each.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path, PurePath

from shards.cohort.dicom_series import series_of
from shards.cohort.slides import Slide
from shards.errors import InputError

END_BYTES = BLOCK_BYTES = 2**20
# Two scans of glass may have the same previews or an index of the same length: their pixels lie in a folder beside them.
FOLDERS_BESIDE = ("{stem}", "_{stem}_")
IMAGE_SUFFIXES = (
    *(".svs", ".tif", ".tiff", ".btf", ".tf2", ".tf8", ".ome", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu"),
    *(".vsi", ".czi", ".zvi", ".isyntax", ".i2syntax", ".dcm", ".png", ".jpg", ".jpeg", ".jp2", ".bmp", ".webp", ".qptiff"),
)
MAX_LISTED = 10


def same_slide_warnings(slides: Sequence[Slide]) -> list[str]:
    """Return which slides may be one in two formats, line by line; refuse what surely is one slide.

    Raises:
        InputError: one file, a copy of it, or two levels of one DICOM slide stand in two rows, or two formats of one name
            in one folder.
    """
    problems = list(_same_files(slides)) + list(_same_series(slides))
    doubtful = []
    for first, second in _pairs([(_name_of(slide.path), slide) for slide in slides]):
        if first.path.suffix.casefold() == second.path.suffix.casefold():
            continue  # scan.svs in a folder for each slide
        both = f"slides {first.slide_id!r} and {second.slide_id!r}: {first.path} and {second.path.name}"
        if first.path.parent == second.path.parent:
            problems.append(f"{both} are one slide in two formats by their names. Keep one row, or rename a file")
        else:
            doubtful.append(
                f"slides {first.slide_id!r} and {second.slide_id!r}: {first.path} and {second.path} differ in folder and format "
                f"only. If they are one slide, keep one row: else it may stand in training and in test"
            )
    if problems:
        more = [f"... and {len(problems) - MAX_LISTED} more pairs"] if len(problems) > MAX_LISTED else []
        raise InputError("\n".join(problems[:MAX_LISTED] + more))
    more = [f"... and {len(doubtful) - MAX_LISTED} more such pairs"] if len(doubtful) > MAX_LISTED else []
    return doubtful[:MAX_LISTED] + more


def _same_files(slides: Sequence[Slide]) -> Iterator[str]:
    by_file: list[tuple[Hashable, Slide]] = []
    by_size: dict[int, list[Slide]] = defaultdict(list)
    for slide in slides:
        try:
            stat = os.stat(slide.path)
        except (OSError, ValueError):  # not there yet: only its name can be compared
            by_file.append((os.path.normpath(slide.path), slide))
            continue
        by_file.append(((stat.st_dev, stat.st_ino), slide))
        if stat.st_size:
            by_size[stat.st_size].append(slide)
    linked = list(_pairs(by_file))
    for first, second in linked:
        yield (
            f"slides {first.slide_id!r} and {second.slide_id!r} are the same file: {first.path}"
            + ("" if first.path == second.path else f" and {second.path}")
            + ". Keep one row"
        )
    seen = {id(second) for _, second in linked}
    for equal in by_size.values():
        distinct = [slide for slide in equal if id(slide) not in seen]
        if len(distinct) > 1:
            for first, second in _pairs([(_ends(slide.path), slide) for slide in distinct]):
                if _same_bytes(first.path, second.path):
                    yield (
                        f"slides {first.slide_id!r} and {second.slide_id!r} are the same slide: {second.path} is a copy of "
                        f"{first.path}. Keep one row"
                    )


def _same_series(slides: Sequence[Slide]) -> Iterator[str]:
    others = set(IMAGE_SUFFIXES) - {".dcm"}  # DICOM files are often named by a number, or have no suffix
    found = [(series_of(slide.path), slide) for slide in slides if slide.path.suffix.casefold() not in others]
    for first, second in _pairs(found):
        if not _same_bytes(first.path, second.path):
            yield (
                f"slides {first.slide_id!r} and {second.slide_id!r} are levels of one DICOM slide (SeriesInstanceUID): "
                f"{first.path} and {second.path}. Keep one row: either file opens all levels"
            )


def _pairs(keyed: Sequence[tuple[Hashable, Slide]]) -> Iterator[tuple[Slide, Slide]]:
    """Yield each slide whose key was there before, with the first of that key; None is no key."""
    first_of: dict[Hashable, Slide] = {}
    for key, slide in keyed:
        if key is not None and first_of.setdefault(key, slide) is not slide:
            yield first_of[key], slide


def _name_of(path: Path) -> str | None:
    name = PurePath(unicodedata.normalize("NFC", path.name).casefold())
    while name.suffix in IMAGE_SUFFIXES:  # S1.ome.tif; TCGA's names hold dots of their own
        name = name.with_suffix("")
    return name.name


def _ends(path: Path) -> Hashable:
    """Return what copies of a file share: its first and last MiB, and the sizes of the files in its folder."""
    try:
        with open(path, "rb") as file:
            first = file.read(END_BYTES)
            file.seek(max(0, path.stat().st_size - END_BYTES))
            return first, file.read(END_BYTES), _beside(path)
    except OSError:  # whoever opens the slide says so
        return None


def _beside(path: Path) -> tuple[tuple[str, int], ...]:
    folders = [path.parent / pattern.format(stem=path.stem) for pattern in FOLDERS_BESIDE]
    files = [(file, folder) for folder in folders if folder.is_dir() for file in folder.rglob("*") if file.is_file()]
    return tuple(sorted((str(file.relative_to(folder)), file.stat().st_size) for file, folder in files))


def _same_bytes(first: Path, second: Path) -> bool:
    """Compare whole files: uncompressed scans of one size may begin and end with white."""
    try:
        with open(first, "rb") as one, open(second, "rb") as other:
            while block := one.read(BLOCK_BYTES):
                if block != other.read(BLOCK_BYTES):
                    return False
            return not other.read(1)
    except OSError:
        return False
