"""Slides whose scan begins inside level 0: annotations and points count from the scan's corner, as in QuPath, or from 0."""

import json
from pathlib import Path

import numpy as np
import pytest

from launch.verbs.tables import tile_lines
from shards.cohort.cohort import Cohort
from shards.cohort.frame import Bounds, Frame, frame_of, frame_of_row
from shards.cohort.slides import Slide
from shards.drawn.drawn_slides import write_asap
from shards.errors import InputError
from shards.tiling.slide_reader import open_slide
from shards.tiling.tile import tile_cohort
from shards.tiling.tile_config import TileConfig
from shards.tiling.tile_summary import TileSummary
from shards.tiling.unit import slide_job
from tests.scn import write_scn

CORNER = (640, 384)  # level-0 pixels
QUPATH = np.array([[256, 256], [512, 256], [512, 512], [256, 512]])
LEVEL0 = QUPATH + CORNER
TUMOUR = {(896, 640), (1024, 640), (896, 768), (1024, 768)}  # the four patches of 128 px, level-0 pixels


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    scan = np.full((1024, 1024, 3), (200, 120, 180), np.uint8)
    scan[256:512, 256:512] = (90, 40, 120)
    return write_scn(tmp_path / "a.scn", scan, CORNER)


def annotate(path: Path, outline: np.ndarray) -> None:
    if path.suffix == ".geojson":
        ring = [*outline.tolist(), outline[0].tolist()]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        properties = {"classification": {"name": "Tumor"}}
        feature = {"type": "Feature", "geometry": geometry, "properties": properties}
        path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    elif path.suffix == ".xml":
        write_asap(path, [("Tumor", outline.astype(float))])
    else:
        centres = outline[0] + np.array([[64, 64], [192, 64], [64, 192], [192, 192]])
        path.write_text("x,y,class\n" + "".join(f"{x},{y},Tumor\n" for x, y in centres))


def tiled(folder: Path, annotation: str, **settings: object) -> tuple[TileSummary, Cohort]:
    (folder / "slides.csv").write_text(f"slide_id,path,label,annotation\na,a.scn,1,{annotation}\n")
    config = TileConfig.model_validate({"patch_px": 128, "allow_unlabelled": True, **settings})
    return tile_cohort(folder / "slides.csv", folder / "cohort", config), Cohort.open(folder / "cohort")


def positive(cohort: Cohort) -> set[tuple[int, int]]:
    chosen = cohort.patches.truth == 1
    return set(zip(cohort.patches.x_level0[chosen].tolist(), cohort.patches.y_level0[chosen].tolist(), strict=True))


@pytest.mark.parametrize("suffix", [".geojson", ".xml", ".csv"])
@pytest.mark.parametrize(("frame", "outline"), [("qupath", QUPATH), ("level0", LEVEL0)])
def test_truth_lies_on_the_tumour_and_the_frame_is_told(
    tmp_path: Path, slide: Path, suffix: str, frame: str, outline: np.ndarray
) -> None:
    annotate(tmp_path / f"a{suffix}", outline)
    settings = {} if frame == "qupath" else {"annotation_frame": frame}
    summary, cohort = tiled(tmp_path, f"a{suffix}", **settings)
    assert positive(cohort) == TUMOUR
    row = cohort.slides.to_pylist()[0]
    assert frame_of_row(row) == (Frame("qupath", *CORNER) if frame == "qupath" else Frame("level0"))
    assert "1 slides whose scan begins inside level 0" in "\n".join(tile_lines(summary, tmp_path))


@pytest.mark.parametrize(("frame", "outline", "other"), [("qupath", LEVEL0, "level0"), ("level0", QUPATH, "qupath")])
def test_the_other_frame_is_refused_by_name(
    tmp_path: Path, slide: Path, frame: str, outline: np.ndarray, other: str
) -> None:
    annotate(tmp_path / "a.geojson", outline)
    with pytest.raises(InputError, match=f"a.geojson: .*tile.annotation_frame={other}"):
        tiled(tmp_path, "a.geojson", annotation_frame=frame)


@pytest.mark.parametrize(("frame", "corner"), [("qupath", (0, 0)), ("level0", CORNER)])
def test_points_that_replace_the_grid_are_in_the_frame(
    tmp_path: Path, slide: Path, frame: str, corner: tuple[int, int]
) -> None:
    points = [(320, 320, "tumour"), (448, 448, "tumour"), (900, 900, "normal")]
    rows = "".join(f"a,{x + corner[0]},{y + corner[1]},{name}\n" for x, y, name in points)
    (tmp_path / "points.csv").write_text(f"image,x,y,class\n{rows}")
    _, cohort = tiled(tmp_path, "", points_file="points.csv", positive_class="tumour", annotation_frame=frame)
    assert positive(cohort) == {(896, 640), (1024, 768)}
    assert len(cohort.patches) == 3


def test_slides_without_bounds_are_as_they_were(tmp_path: Path, slide: Path) -> None:
    assert frame_of(None, "qupath") == frame_of(Bounds(0, 0, 100, 100), "qupath") == Frame()
    assert frame_of_row({"slide_id": "of a cohort of before"}) == Frame()
    _, cohort = tiled(tmp_path, "")
    assert "annotation_frame" not in cohort.slides.column_names
    with open_slide(slide) as opened:
        assert opened.bounds == (*CORNER, 1024, 1024)


def test_only_jobs_that_may_have_bounds_are_cut_anew(tmp_path: Path) -> None:
    def fingerprint(name: str, annotation: str | None, settings: dict[str, str]) -> str:
        drawn = None if annotation is None else tmp_path / annotation
        return slide_job(Slide("s", tmp_path / name, "p", {}, {}, None, drawn), None, settings).fingerprint

    before, now, other = {}, {"annotation_frame": "qupath"}, {"annotation_frame": "level0"}
    for name, annotation in (("a.svs", "a.xml"), ("a.mrxs", None), ("a.tif", None)):
        assert fingerprint(name, annotation, before) == fingerprint(name, annotation, now)
    assert fingerprint("a.mrxs", "a.xml", now) != fingerprint("a.mrxs", "a.xml", other)
    assert fingerprint("a.tif", "a.xml", now) != fingerprint("a.tif", "a.xml", other)


def test_a_fluorescence_scan_is_refused(tmp_path: Path) -> None:
    path = write_scn(tmp_path / "a.scn", np.full((1024, 1024, 3), 30, np.uint8), CORNER, light="fluorescence")
    with pytest.raises(InputError, match="has no bright-field scan: a fluorescence slide"), open_slide(path):
        pass
