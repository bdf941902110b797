"""Camelyon16 as a table of slides.

    ROOT/training/normal/normal_001.tif ...      label 0        the official layout; a flat one (images/*.tif,
        /training/tumor/tumor_001.tif ...        label 1        annotations/*.xml) is found as well: names decide
        /training/lesion_annotations/tumor_001.xml
        /testing/images/test_001.tif ...         label by name from the reference table
        /testing/lesion_annotations/test_001.xml
        /testing/reference.csv

Names say what a training slide is; a test slide's label stands in the reference, by name, never by row order.
"""

import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.cohort.cohort_table import Row, read_rows, write_csv
from shards.cohort.splits import split_patients
from shards.errors import InputError
from shards.files import whole_file

SLIDE_NAME = re.compile(r"(normal|tumor|test)_\d{3}", re.IGNORECASE)
IMAGE_SUFFIXES = (".tif", ".tiff", ".svs")
ANNOTATION_SUFFIXES = (".xml", ".json")
REFERENCE_NAMES = ("reference.csv", "test_reference.csv")
LABEL_OF = {"tumor": 1, "normal": 0}


@dataclass(frozen=True)
class CamelyonSummary:
    """What was found: the table's path, counts by split, and what is missing."""

    slides_csv: Path
    num_slides_of_split: dict[str, int]
    num_annotated: int
    positive_without_annotation: list[str]
    num_reference_without_slide: int


def write_camelyon16(
    root: Path,
    out: Path,
    test_reference: Path | None = None,
    annotations: Path | None = None,
    validation_share: float = 0.2,
    seed: int = 0,
) -> CamelyonSummary:
    """Write out/slides.csv: slide_id, path, label, patient_id, split, annotation.

    Args:
        root: where the slides are.
        out: where to write; made if absent.
        test_reference: table with the test slides' labels; None: reference.csv or test_reference.csv below `root`.
        annotations: folder or tar of outlines; None: below `root`. A tar's members are written to out/annotations.
        validation_share: share of the official training slides; the official test slides are the test split.
        seed: of that draw.

    Raises:
        InputError: no slides, a test slide without a label, or a reference that cannot be read.
    """
    slides = _by_name(root, IMAGE_SUFFIXES)
    if not slides:
        raise InputError(f"{root}: no file named like normal_001.tif, tumor_001.tif or test_001.tif below it")
    names = sorted(slides)
    reference = read_reference(test_reference or _find_reference(root, names))
    label_of = {name: _label(name, reference) for name in names}
    training = [name for name in names if not name.startswith("test")]
    drawn = split_patients(
        training, [label_of[name] for name in training], validation_share=validation_share, test_share=0.0, seed=seed
    )
    split_of = dict.fromkeys(names, "test") | dict(zip(training, drawn, strict=True))
    outlines = _outlines(root, out, annotations)
    rows = [
        (name, str(slides[name]), label_of[name], name, split_of[name], str(outlines.get(name, "")))
        for name in names  # patients are not published: each slide stands for one
    ]
    header = ("slide_id", "path", "label", "patient_id", "split", "annotation")
    return CamelyonSummary(
        write_csv(out / "slides.csv", header, rows),
        {split: list(split_of.values()).count(split) for split in ("train", "validation", "test")},
        sum(name in outlines for name in names),
        [name for name in names if label_of[name] == 1 and name not in outlines],
        len(reference.keys() - slides.keys()),
    )


def read_reference(path: Path | None) -> dict[str, int]:
    """Return the test slides' labels by lower-case name; the official table has a header or none, and Tumor or Normal.

    Raises:
        InputError: a label is neither, or contradicts another row.
    """
    if path is None:
        return {}
    labels: dict[str, int] = {}
    for row in read_rows_with_or_without_header(path):
        name, word = row.cells["slide_name"].lower().removesuffix(".tif"), row.cells["is_tumor"].lower()
        if not SLIDE_NAME.fullmatch(name):
            raise row.error("slide_name", "not a slide's name such as test_001. Give the table of the test labels")
        if word not in LABEL_OF:
            raise row.error("is_tumor", "a label is Tumor or Normal. Correct the cell")
        if labels.setdefault(name, LABEL_OF[word]) != LABEL_OF[word]:
            raise row.error("slide_name", "this slide is there twice with different labels. Remove one row")
    return labels


def read_rows_with_or_without_header(path: Path) -> list[Row]:
    """Read the reference; without a header its first two columns are the name and the label.

    Raises:
        InputError: no such file, or no table.
    """
    try:
        first_line = path.read_text(encoding="utf-8-sig").lstrip().splitlines()[0]
    except (OSError, UnicodeDecodeError, IndexError):
        return read_rows(path, ("slide_name", "is_tumor"))  # says what is wrong
    if not SLIDE_NAME.match(first_line):
        return read_rows(path, ("slide_name", "is_tumor"))
    lines = [line.split(",") for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    return [
        Row(path, number, {"slide_name": cells[0].strip(), "is_tumor": cells[1].strip() if len(cells) > 1 else ""})
        for number, cells in enumerate(lines, start=1)
    ]


def _by_name(root: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return the files below `root` that are named like a slide, by lower-case name.

    Raises:
        InputError: two files of one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        name = path.stem.lower()
        if path.suffix.lower() in suffixes and SLIDE_NAME.fullmatch(name):
            if name in found:
                raise InputError(f"{root}: {name} is there twice: {found[name]} and {path}. Remove one")
            found[name] = path.absolute()
    return found


def _find_reference(root: Path, names: Sequence[str]) -> Path | None:
    found = sorted(path for name in REFERENCE_NAMES for path in root.rglob(name))
    if not found and any(name.startswith("test") for name in names):
        raise InputError(
            f"{root}: there are test slides, but no {' or '.join(REFERENCE_NAMES)}. Say where: --test-reference FILE"
        )
    return found[0] if found else None


def _label(name: str, reference: dict[str, int]) -> int:
    if not name.startswith("test"):
        return LABEL_OF[name.split("_")[0]]
    if name not in reference:
        raise InputError(f"{name}: this test slide has no row in the test reference. Complete the table, or remove it")
    return reference[name]


def _outlines(root: Path, out: Path, annotations: Path | None) -> dict[str, Path]:
    if annotations is None:
        return _by_name(root, ANNOTATION_SUFFIXES)
    if annotations.is_dir():
        return _by_name(annotations, ANNOTATION_SUFFIXES)
    try:
        with tarfile.open(annotations) as tar:
            for member in tar:
                source = tar.extractfile(member) if member.isfile() else None
                name = Path(member.name).stem.lower()
                if source is not None and SLIDE_NAME.fullmatch(name) and member.name.lower().endswith(".json"):
                    with whole_file(out / "annotations" / f"{name}.json") as temporary:
                        temporary.write_bytes(source.read())
    except (OSError, tarfile.TarError) as error:
        raise InputError(
            f"--annotations {annotations}: neither a folder nor a tar of JSON outlines ({error})"
        ) from None
    return _by_name(out / "annotations", (".json",))
