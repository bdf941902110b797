import tarfile
from pathlib import Path

import pytest

from shards.cohort.slides import read_slides
from shards.errors import InputError
from shards.public.camelyon16 import read_reference, write_camelyon16
from tests.paths import SHARED, needs_camelyon16


def make_root(folder: Path, num_normal: int, num_tumor: int, tests: list[int]) -> Path:
    """Lay out empty files as the official archive does."""
    names = [f"training/normal/normal_{n:03d}.tif" for n in range(1, num_normal + 1)]
    names += [f"training/tumor/tumor_{n:03d}.tif" for n in range(1, num_tumor + 1)]
    names += [f"training/lesion_annotations/tumor_{n:03d}.xml" for n in range(1, num_tumor + 1)]
    names += [f"testing/images/test_{n:03d}.tif" for n in tests]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


REFERENCE = "slide_name,is_tumor,category_1,category_2,truth\ntest_002,Normal,None,None,0\ntest_001,Tumor,IDC,Macro,1\n"


@pytest.mark.parametrize("text", [REFERENCE, REFERENCE.split("\n", 1)[1]])
def test_test_labels_come_by_name_never_by_row_order(tmp_path: Path, text: str) -> None:
    root = make_root(tmp_path / "root", 10, 10, [1, 2])
    (root / "testing" / "reference.csv").write_text(text)
    summary = write_camelyon16(root, tmp_path / "out")
    slides = {slide.slide_id: slide for slide in read_slides(summary.slides_csv)}
    assert (slides["test_001"].labels["label"], slides["test_002"].labels["label"]) == (1, 0)
    assert summary.num_slides_of_split == {"train": 16, "validation": 4, "test": 2}
    assert {name for name, slide in slides.items() if slide.splits["split"] == "test"} == {"test_001", "test_002"}
    validation = [slide for slide in slides.values() if slide.splits["split"] == "validation"]
    assert sum(slide.labels["label"] or 0 for slide in validation) == 2
    assert slides["tumor_003"].annotation == root / "training/lesion_annotations/tumor_003.xml"
    assert slides["normal_003"].annotation is None
    assert summary.positive_without_annotation == ["test_001"]


@needs_camelyon16
def test_the_real_reference_and_outlines_give_the_official_split(tmp_path: Path) -> None:
    reference = SHARED / "camelyon16" / "test_reference.csv"
    labels = read_reference(reference)
    assert (len(labels), sum(labels.values())) == (129, 49)
    assert "test_049" not in labels
    root = make_root(tmp_path / "root", 159, 111, [int(name[-3:]) for name in labels])
    archive = SHARED / "camelyon16" / "annotations_json.tar.xz"
    summary = write_camelyon16(root, tmp_path / "out", reference, archive)
    assert summary.num_slides_of_split == {"train": 216, "validation": 54, "test": 129}
    slides = {slide.slide_id: slide for slide in read_slides(summary.slides_csv)}
    assert {name: slides[name].labels["label"] for name in labels} == labels
    assert slides["tumor_054"].annotation == tmp_path / "out" / "annotations" / "tumor_054.json"
    assert len([name for name in summary.positive_without_annotation if name.startswith("tumor")]) == 1


def test_what_is_missing_or_contradicts_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file named like"):
        write_camelyon16(tmp_path, tmp_path)
    root = make_root(tmp_path / "root", 2, 2, [1, 2])
    with pytest.raises(InputError, match=r"--test-reference FILE"):
        write_camelyon16(root, tmp_path / "out")
    reference = tmp_path / "r.csv"
    reference.write_text("test_001,Tumor\n")
    with pytest.raises(InputError, match="test_002: this test slide has no row"):
        write_camelyon16(root, tmp_path / "out", reference)
    reference.write_text("test_001,Tumor\ntest_001,Normal\n")
    with pytest.raises(InputError, match=r"row 2, column slide_name: 'test_001': this slide is there twice"):
        write_camelyon16(root, tmp_path / "out", reference)
    reference.write_text("test_001,Maybe\n")
    with pytest.raises(InputError, match=r"row 1, column is_tumor: 'Maybe': a label is Tumor or Normal"):
        write_camelyon16(root, tmp_path / "out", reference)
    reference.write_text("test_001,Tumor\ntest_002,Normal\n")
    with pytest.raises(InputError, match="neither a folder nor a tar"):
        write_camelyon16(root, tmp_path / "out", reference, reference)
    (root / "normal_001.tif").touch()
    with pytest.raises(InputError, match="normal_001 is there twice"):
        write_camelyon16(root, tmp_path / "out", reference)


def test_only_slide_names_are_taken_from_an_archive(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root", 2, 2, [])
    (tmp_path / "Tumor_001.json").write_text('{"positive": [], "negative": []}')
    with tarfile.open(tmp_path / "a.tar.xz", "w:xz") as tar:
        tar.add(tmp_path / "Tumor_001.json", "jsons/Tumor_001.json")
        tar.add(tmp_path / "Tumor_001.json", "../evil.json")
    write_camelyon16(root, tmp_path / "out", annotations=tmp_path / "a.tar.xz")
    assert [path.name for path in (tmp_path / "out" / "annotations").iterdir()] == ["tumor_001.json"]
    assert not (tmp_path / "evil.json").exists()
