"""Every small file that once showed a fault, in one `hnm tile`: each gives the right value of ../shared/cases/README.md.

The tables of tcga/ are in test_cohort.py, two levels of one DICOM slide as two patients in shards/cohort/test_same_slides.py.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from shards.cohort.cohort import Cohort
from tests.command_line import hnm
from tests.paths import CASES, needs_cases

pytestmark = needs_cases
ANNOTATIONS = CASES / "annotations"
# Of 64 patches of 128 px. All groups but those that say otherwise are positive unless the settings say which.
POSITIVE = {
    "island-multipolygon": 24, "island-two-features": 24, "normal-hole": 16, "point": 16, "null": 16, "collection": 16,
    "emptycoords": 16, "bare": 16, "bom": 16, "class-string": 16, "class-names": 16, "class-typo": 16, "stroma-hole": 64,
    "class-other": 24,  # with the Necrosis beside the tumour
    "aperio": 15,  # its NegativeROA is a patch
    "scn-qupath": 4,
}  # fmt: skip
Positive = dict[str, int]
Tile = Callable[..., tuple[Positive, str]]


def all_rows() -> dict[str, str]:
    """Return the table's rows by slide id: one patient for each file, or the same file twice would be refused."""
    files = {path.stem: path for path in sorted(ANNOTATIONS.iterdir()) if path.suffix in (".geojson", ".xml")}
    slide_of = {name: "island-slide.tif" if name.startswith("island") else "slide.tif" for name in files}
    rows = {name: f"{ANNOTATIONS / slide_of[name]},1,{slide_of[name]},{file}" for name, file in files.items()}
    for frame in ("qupath", "full"):
        rows[f"scn-{frame}"] = f"{CASES / 'scn-bounds/a.scn'},1,scn,{CASES / 'scn-bounds' / frame}.geojson"
    rows |= {"vsi": f"{CASES / 'preview-only/slide.vsi'},0,vsi,", "dpi72": f"{CASES / 'resolution/dpi72.tif'},0,dpi,"}
    return rows | {f"boxes_{level}": f"{CASES}/dicom/boxes_{level}.dcm,0,boxes," for level in (0, 1)}


@pytest.fixture
def tile(tmp_path: Path) -> Tile:
    """A function (slide ids, none for all; overrides) -> positive patches of each slide with patches, and what is printed."""

    def run(slide_ids: tuple[str, ...] = (), *overrides: str) -> tuple[Positive, str]:
        rows = [f"{name},{row}" for name, row in all_rows().items() if not slide_ids or name in slide_ids]
        table, folder = tmp_path / "slides.csv", tmp_path / "cohort"
        table.write_text("\n".join(["slide_id,path,label,patient_id,annotation", *rows]) + "\n")
        settings = ["tile.patch_px=128", "tile.max_failed=1", "tile.allow_unlabelled=true", *overrides]
        result = hnm("tile", table, folder, "--workers", "1", *settings)
        assert result.exit_code == 0, result.output
        cohort = Cohort.open(folder)
        bounds = zip(cohort.slide_ids, cohort.patch_bounds[:-1], cohort.patch_bounds[1:], strict=True)
        truths = {slide_id: cohort.patches.truth[first:end] for slide_id, first, end in bounds if first < end}
        assert not any((truth == -1).any() for name, truth in truths.items() if name != "dpi72")
        return {name: int((truth == 1).sum()) for name, truth in truths.items()}, " ".join(result.output.split())

    return run


def test_all_of_them_in_one_command(tile: Tile) -> None:
    positive, told = tile()
    assert positive == POSITIVE
    for part in (
        "21 slides: 16 done, 2 empty, 3 failed",
        "1,024 patches, 315 of them known to be positive",
        "Tumor (14 slides, 16 outlines",  # what was taken as positive, cut out and ignored
        "Necrosis (1 slide, 1 outline",
        "annotations cut out: Normal (1 slide, 1 outline",
        "hole (NegativeROA) (1 slide",
        "Region* (1 slide",
        "Normal: Ignore* (1 slide",
        "4 points, lines and empty geometries of annotations without an area",
        "annotations and points are taken to count from the scan's corner, as QuPath's do",
        "scn-full: failed: ",
        "begins at (640, 384)",
        "Set tile.annotation_frame=level0",
        "vsi: failed: ",
        "the scan lies in the folder _slide_/",
        "dpi72: failed: ",
        "the file tells 352.8 um/px (header), 352.8 um/px (tags), which no microscope has",
        "boxes_0: empty: no patch of 128 level-0 px lies wholly inside its 16 x 16",
    ):
        assert part in told


def test_those_that_need_a_word_of_the_settings(tile: Tile) -> None:
    chosen = ("stroma-hole", "normal-hole", "class-other", "class-names", "scn-full", "dpi72")
    overrides = ("tile.positive_groups=[Tumor]", "tile.annotation_frame=level0", "tile.assume_mpp=0.25")
    positive, told = tile(chosen, *overrides)
    tumour = {"stroma-hole": 16, "normal-hole": 16, "class-other": 16, "class-names": 16}
    assert positive == {**tumour, "scn-full": 4, "dpi72": 0}
    assert "are taken to count from the corner of level 0" in told
    assert "1 slides whose microns per pixel are assumed" in told


def test_a_group_that_no_file_has(tile: Tile) -> None:
    positive, told = tile(("class-typo",), "tile.positive_groups=[Tumour]")
    assert positive == {"class-typo": 0}
    assert "no annotation has a group 'Tumour' (the groups are: 'Tumor'); did you mean 'Tumor'?" in told
    assert "truth 0 everywhere: class-typo" in told
