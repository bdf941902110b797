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
Same = tuple[Slide, Slide, str]  # two slides, and how they are one


def same_slide_warnings(slides: Sequence[Slide], refuse: bool = True) -> list[str]:
    """Return which slides are or may be one, line by line; refuse where one could train and the other test.

    Slides of one patient are never parted, and without a label column nothing is trained: then it is a warning. So are
    two formats in two folders, for a name alone proves nothing there (scan.svs and scan.tif, a folder for each slide).

    Args:
        slides: of a table.
        refuse: False: warn only, for prediction.

    Raises:
        InputError: one file, a copy of it, two levels of one DICOM slide, or one name in two formats in one folder stand
            in two rows, as two patients'.
    """
    sure = [*_same_files(slides), *_same_series(slides), *_two_formats(slides, of_one_folder=True)]
    parted = [text for first, second, text in sure if first.labels and first.patient_id != second.patient_id]
    if refuse and parted:
        raise InputError("\n".join(_few([f"{text}. Keep one row, or give both one patient_id" for text in parted])))
    lines = [f"{text}. Keep one row" for _, _, text in sure]
    for _, _, text in _two_formats(slides, of_one_folder=False):
        lines.append(f"{text}? If so keep one row, or give both one patient_id: else one may train and the other test")
    return _few(lines)


def _few(lines: list[str]) -> list[str]:
    return lines[:MAX_LISTED] + ([f"... and {len(lines) - MAX_LISTED} more pairs"] if len(lines) > MAX_LISTED else [])


def _two_formats(slides: Sequence[Slide], of_one_folder: bool) -> Iterator[Same]:
    for first, second in _pairs([(_name_of(slide.path), slide) for slide in slides]):
        is_other_format = first.path.suffix.casefold() != second.path.suffix.casefold()
        if is_other_format and (first.path.parent == second.path.parent) == of_one_folder:
            yield first, second, f"{_both(first, second)} are one slide in two formats: {first.path} and {second.path}"


def _both(first: Slide, second: Slide) -> str:
    return f"slides {first.slide_id!r} and {second.slide_id!r}"


def _same_files(slides: Sequence[Slide]) -> Iterator[Same]:
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
        names = f"{first.path}" if first.path == second.path else f"{first.path} and {second.path}"
        yield first, second, f"{_both(first, second)} are the same file: {names}"
    seen = {id(second) for _, second in linked}
    for equal in by_size.values():
        distinct = [slide for slide in equal if id(slide) not in seen]
        if len(distinct) > 1:
            for first, second in _pairs([(_ends(slide.path), slide) for slide in distinct]):
                if _same_bytes(first.path, second.path):
                    yield first, second, f"{_both(first, second)} are the same slide: {second.path} is a copy of {first.path}"


def _same_series(slides: Sequence[Slide]) -> Iterator[Same]:
    others = set(IMAGE_SUFFIXES) - {".dcm"}  # DICOM files are often named by a number, or have no suffix
    found = [(series_of(slide.path), slide) for slide in slides if slide.path.suffix.casefold() not in others]
    for first, second in _pairs(found):
        if not _same_bytes(first.path, second.path):
            text = f"are levels of one DICOM slide, each of which opens all: {first.path} and {second.path}"
            yield first, second, f"{_both(first, second)} {text}"


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
            return first, file.read(END_BYTES), beside(path)
    except OSError:  # whoever opens the slide says so
        return None


def beside(path: Path) -> tuple[tuple[str, int], ...]:
    """Return the names and sizes of the files in the folder that some formats have beside a slide's file, sorted."""
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
