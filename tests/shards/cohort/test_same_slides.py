import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from shards.cohort.dicom_series import series_of
from shards.cohort.same_slides import same_slide_warnings
from shards.cohort.slides import Slide
from shards.errors import InputError
from tests.paths import CASES, needs_cases

DICOM = CASES / "dicom"


def slides_of(*paths: Path) -> list[Slide]:
    return [Slide(f"s{number}", path, f"p{number}", {"label": 1}, {}, None) for number, path in enumerate(paths)]


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_one_file_under_two_ids_a_link_or_a_copy_is_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a.svs", b"pixels" * 10)
    copy = write(tmp_path / "elsewhere" / "b.svs", first.read_bytes())
    (tmp_path / "soft.svs").symlink_to(first)
    os.link(first, tmp_path / "hard.svs")
    for other in (first, tmp_path / "elsewhere" / ".." / "a.svs", tmp_path / "soft.svs", tmp_path / "hard.svs"):
        with pytest.raises(InputError, match=r"slides 's0' and 's1' are the same file: .*a\.svs.* Keep one row"):
            same_slide_warnings(slides_of(first, other))
    with pytest.raises(InputError, match=r"'s0' and 's1' are the same slide: .*b\.svs is a copy of .*a\.svs"):
        same_slide_warnings(slides_of(first, copy))
    as_one_patient = [replace(slide, patient_id="P") for slide in slides_of(first, copy)]
    assert same_slide_warnings(as_one_patient) == same_slide_warnings(slides_of(first, copy), refuse=False)
    assert len(same_slide_warnings([replace(slide, labels={}) for slide in slides_of(first, copy)])) == 1
    missing = tmp_path / "not-downloaded.svs"
    with pytest.raises(InputError, match="the same file"):
        same_slide_warnings(slides_of(missing, tmp_path / "x" / ".." / missing.name))


def test_files_of_one_size_that_begin_and_end_alike_are_two(tmp_path: Path) -> None:
    glass = b"\xff" * 2**20
    first = write(tmp_path / "a.tif", glass + b"one" + glass)
    second = write(tmp_path / "b.tif", glass + b"two" + glass)
    empty = [write(tmp_path / name, b"") for name in ("c.tif", "d.tif")]  # tiling says what is wrong with them
    assert same_slide_warnings(slides_of(first, second, *empty, tmp_path / "gone.tif")) == []


def test_an_index_file_is_the_same_only_with_its_folder(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.mrxs", b"preview") for name in "ab"]
    write(tmp_path / "a" / "Data0001.dat", b"12345")
    write(tmp_path / "b" / "Data0001.dat", b"123456")
    assert same_slide_warnings(slides_of(*paths)) == []
    write(tmp_path / "b" / "Data0001.dat", b"54321")
    with pytest.raises(InputError, match="is a copy of"):
        same_slide_warnings(slides_of(*paths))


def test_two_formats_of_one_name(tmp_path: Path) -> None:
    svs = write(tmp_path / "S1.1.svs", b"a")
    for name in ("S1.1.tif", "s1.1.ome.tiff", "S1.1.NDPI"):
        with pytest.raises(InputError, match=r"'s0' and 's1' are one slide in two formats: .* Keep one row"):
            same_slide_warnings(slides_of(svs, write(tmp_path / name, b"bc")))
    (warning,) = same_slide_warnings(slides_of(svs, write(tmp_path / "converted" / "S1.1.tif", b"bc")))
    assert "one may train and the other test" in warning
    per_slide = [write(tmp_path / name / "scan.svs", name.encode()) for name in ("1", "2", "33")]
    assert same_slide_warnings(slides_of(svs, write(tmp_path / "S1.2.svs", b"ab"), *per_slide)) == []


@needs_cases
def test_two_levels_of_one_dicom_slide_are_refused(tmp_path: Path) -> None:
    paths = [Path(shutil.copy(DICOM / name, tmp_path)) for name in ("boxes_0.dcm", "boxes_1.dcm")]
    assert series_of(paths[0]) == "1.3.6.1.4.1.5962.99.1.1747645553.419656796.1689669825649.4.0"  # as OpenSlide says
    renamed = paths[1].rename(tmp_path / "1.2.840.7")  # archives name such files by a number
    for other in (DICOM / "boxes_1.dcm", renamed):
        with pytest.raises(InputError, match=r"levels of one DICOM slide, .*boxes_0\.dcm.* Keep one row"):
            same_slide_warnings(slides_of(paths[0], other))


def element(group: int, number: int, kind: bytes, value: bytes, undefined: bool = False) -> bytes:
    head = group.to_bytes(2, "little") + number.to_bytes(2, "little")
    length = b"\xff" * 4 if undefined else len(value).to_bytes(4, "little")
    if group == 0xFFFE or not kind:
        return head + length + value
    return head + kind + (b"\0\0" + length if kind == b"SQ" else len(value).to_bytes(2, "little")) + value


def test_the_series_is_the_files_own_whatever_stands_before_it(tmp_path: Path) -> None:
    end = element(0xFFFE, 0xE0DD, b"", b"")
    for kinds, syntax in (((b"SQ", b"UI"), b"1.2.840.10008.1.2.1\0"), ((b"", b""), b"1.2.840.10008.1.2\0")):
        sequence, uid = kinds
        referenced = element(0xFFFE, 0xE000, b"", element(0x20, 0x0E, uid, b"9.9\0"))
        series = element(0x20, 0x0E, uid, b"1.2.3\0")
        meta = bytes(128) + b"DICM" + element(2, 0x10, b"UI", syntax)
        for undefined in (False, True):
            before = element(8, 0x1115, sequence, referenced + (end if undefined else b""), undefined)
            assert series_of(write(tmp_path / "a.dcm", meta + before + series)) == "1.2.3"
        assert series_of(write(tmp_path / "a.dcm", meta + element(0x28, 2, uid, b"1\0") + series)) is None
    for broken in (b"", b"no DICOM", bytes(128) + b"DICM\x02"):
        assert series_of(write(tmp_path / "a.dcm", broken)) is None
    assert series_of(tmp_path / "gone.dcm") is None
