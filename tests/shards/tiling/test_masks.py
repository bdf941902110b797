"""Masks of tissue and of artefacts: outlines or pixels decide which patches are cut; one of another slide is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.cohort.cohort import Cohort
from shards.drawn.drawn_slides import make_whole_slides
from tests.command_line import assert_refused, hnm

SETTINGS = ["tile.patch_px=32", "tile.background=auto"]


@pytest.fixture(scope="module")
def slides_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whole_slides(tmp_path_factory.mktemp("drawn"), 6, 512, 32, seed=0)


def _outline(path: Path, left: int, top: int, right: int, bottom: int) -> None:
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))


def _png(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask.astype(np.uint8)).save(path)


def _places(cohort: Path, slide: int = 0) -> set[tuple[int, int]]:
    opened = Cohort.open(cohort)
    own = opened.patches.take(np.arange(*opened.patch_bounds[slide : slide + 2]))
    return set(zip(own.x_level0.tolist(), own.y_level0.tolist(), strict=True))


def test_tissue_is_kept_and_artefacts_are_dropped(slides_csv: Path, tmp_path: Path) -> None:
    tissue, artefacts = tmp_path / "tissue", tmp_path / "artefacts"
    tissue.mkdir()
    artefacts.mkdir()
    half = np.zeros((64, 64))
    half[:, :4] = 255  # 32 of the slide's 512 px
    for number in range(6):
        _outline(tissue / f"slide-00{number}.geojson", 0, 0, 128, 72)  # a quarter of the third row of patches
        if number < 5:
            _png(artefacts / f"slide-00{number}.tiff_mask_use.png", half)
    command = ["tile", slides_csv, tmp_path / "cohort", "--workers", "1", *SETTINGS, f"tile.tissue_masks={tissue}"]
    assert hnm(*command).exit_code == 0
    kept = {(x, y) for x in (0, 32, 64, 96) for y in (0, 32, 64)}
    assert _places(tmp_path / "cohort") == kept
    result = hnm(*command, f"tile.artefact_masks={artefacts}")
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "1 of 6 slides have no artefact mask, such as slide-005: nothing of them is dropped" in said
    assert "background filter: none (6 whole slides); tile.background is auto; tissue masks: " in said
    assert _places(tmp_path / "cohort") == {(x, y) for x, y in kept if x}
    assert _places(tmp_path / "cohort", 5) == kept
    assert "0 tiled now" in hnm(*command, f"tile.artefact_masks={artefacts}").output
    _outline(tissue / "slide-003.geojson", 0, 0, 64, 64)
    assert "1 tiled now" in hnm(*command, f"tile.artefact_masks={artefacts}").output


def test_masks_of_another_slide_or_of_many_classes_are_a_failed_slide(slides_csv: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    _outline(masks / "slide-000.geojson", 0, 0, 1024, 72)
    _png(masks / "slide-001_mask.png", np.ones((64, 100)))
    _png(masks / "slide-002.png", np.arange(256).reshape(16, 16) % 8)
    _png(masks / "slide-003.png", np.zeros((64, 64)))
    (masks / "slide-004.png").write_text("no picture")
    result = hnm("tile", slides_csv, tmp_path / "cohort", "--workers", "1", *SETTINGS, f"tile.tissue_masks={masks}")
    for words in (
        "slide-000: failed: ", "reaches (1024, 72), outside of the slide's 512 x 512 level-0 pixels",
        "100 x 64 pixels, of another shape than the slide's 512 x 512",
        "a mask has the value 0 and one other; this one has 8: 0, 1",
        "slide-004.png: cannot be read as a mask", "slide-005: there is no mask of this slide",
    ):  # fmt: skip
        assert_refused(result, 1, words)
    assert "slide-003: failed" not in result.stderr
