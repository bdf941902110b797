"""Annotations from slides.csv to truth, summary and cohort.json: what was found, what it was taken as, what contradicts it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from shards.cohort.cohort import Cohort
from shards.tiling.tile import tile_cohort
from shards.tiling.tile_config import TileConfig
from shards.tiling.tile_summary import TileSummary
from shards.tiling.unit import METADATA_KEY, UNIT_SCHEMA, read_unit
from tests.shards.cohort.drawings import box, feature, layers, region, write_features

SIDE, PATCH = 64, 8  # as the drawn slides of 1024 px with patches of 128: 64 patches
ALL = box(0, 0, SIDE, SIDE)
TUMOUR = feature("Tumor", "Polygon", [box(16, 16, 48, 48)])  # 16 patches


class Slides:
    """A table of annotated slides in the making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = ["slide_id,path,label,mpp,annotation"]

    def add(self, slide_id: str, label: int | str, features: list[dict[str, Any]] | None) -> None:
        name = "" if features is None else write_features(self.folder / f"{slide_id}.geojson", features).name
        picture = np.full((SIDE, SIDE, 3), 200, np.uint8)
        picture[0, 0] = len(self.rows)  # each its own file: the same one under two names is refused
        Image.fromarray(picture).save(self.folder / f"{slide_id}.png")
        self.rows.append(f"{slide_id},{slide_id}.png,{label},0.5,{name}")

    def tile(self, **changes: Any) -> tuple[TileSummary, dict[str, list[int]]]:
        """Return the summary, and each slide's truth."""
        (self.folder / "slides.csv").write_text("\n".join(self.rows) + "\n")
        config = TileConfig(patch_px=PATCH, allow_unlabelled=True, **changes)
        summary = tile_cohort(self.folder / "slides.csv", self.folder / "cohort", config)
        cohort = Cohort.open(self.folder / "cohort")
        truths = [cohort.patches.truth[slice(*cohort.patch_bounds[i : i + 2])].tolist() for i in range(len(cohort.slide_ids))]
        return summary, dict(zip(cohort.slide_ids, truths, strict=True))


@pytest.fixture
def slides(tmp_path: Path) -> Slides:
    return Slides(tmp_path)


def test_the_right_number_of_positive_patches_for_rings_islands_and_classes(slides: Slides) -> None:
    whole_with_hole = [box(0, 0, 64, 64), box(16, 16, 48, 48)]
    ring, island = [box(8, 8, 56, 56), box(16, 16, 48, 48)], [box(24, 24, 40, 40)]
    slides.add("island-multipolygon", 1, [feature("Tumor", "MultiPolygon", [ring, island])])
    slides.add("island-two-features", 1, [feature("Tumor", "Polygon", ring), feature("Tumor", "Polygon", island)])
    slides.add("normal-hole", 1, [feature("Normal", "Polygon", whole_with_hole), TUMOUR])
    slides.add("stroma-hole", 1, [feature("Stroma", "Polygon", whole_with_hole), TUMOUR])
    slides.add("class-names", 1, [{**TUMOUR, "properties": {"classification": {"names": ["Tumor", "Positive"]}}}])
    slides.add("class-string", 1, [{**TUMOUR, "properties": {"classification": "Tumor"}}])
    slides.add("class-other", 1, [TUMOUR, *(feature(name, "Polygon", [ALL]) for name in ("Region*", "Ignore*"))])
    _, truths = slides.tile(positive_groups=["Tumor"])
    positive = {name: sum(truth) for name, truth in truths.items()}
    assert positive == {
        "island-multipolygon": 24, "island-two-features": 24, "normal-hole": 16, "stroma-hole": 16,
        "class-names": 16, "class-string": 16, "class-other": 16,
    }  # fmt: skip


def test_groups_stand_in_the_summary_and_the_cohort_with_their_areas(slides: Slides) -> None:
    necrosis, everything = (feature(name, "Polygon", [its]) for name, its in (("Necrosis", box(0, 0, 64, 8)), ("Region*", ALL)))
    slides.add("a", 1, [TUMOUR, necrosis, everything])
    slides.add("b", 1, [TUMOUR, feature("Normal", "Polygon", [box(0, 56, 64, 64)]), feature("Ruler", "Point", [3, 3])])
    summary, truths = slides.tile()
    assert [sum(truth) for truth in truths.values()] == [24, 16]
    assert summary.annotations.lines() == [
        "annotations taken as positive: Tumor (2 slides, 2 outlines, 0.000512 mm^2); "
        "Necrosis (1 slide, 1 outline, 0.000128 mm^2). Not all of them tumour? Set tile.positive_groups",
        "annotations cut out: Normal (1 slide, 1 outline, 0.000128 mm^2)",
        "annotations ignored (not tumour): Region* (1 slide, 1 outline, 0.00102 mm^2)",
        "1 point, line or empty geometry of annotations without an area",
    ]
    info = json.loads((slides.folder / "cohort" / "cohort.json").read_text())["annotations"]
    assert info["groups"]["Tumor"] == {
        "role": "positive", "num_slides": 2, "num_outlines": 2, "num_points": 0, "area_px": 2048.0, "area_mm2": 0.000512,
    }  # fmt: skip
    assert info["warnings"] == []


def test_a_name_that_no_file_has_is_told(slides: Slides) -> None:
    slides.add("a", 1, [TUMOUR])
    summary, truths = slides.tile(positive_groups=["Tumour"], negative_groups=["normal", "Fat"])
    assert sum(truths["a"]) == 0
    first, second, third = summary.annotations.warnings
    assert first == "tile.positive_groups: no annotation has a group 'Tumour' (the groups are: 'Tumor'); did you mean 'Tumor'?"
    assert "tile.negative_groups: no annotation has a group 'Fat'" in second  # of its default, "normal", nobody asked
    assert third.endswith("without anything that is taken as positive: truth 0 everywhere: a")


def test_labels_and_outlines_that_contradict_each_other_are_told(slides: Slides) -> None:
    for number in range(7):
        slides.add(f"n{number}", 0, [TUMOUR])
    slides.add("p", 1, [])
    slides.add("q", 1, None)
    summary, _ = slides.tile()
    assert summary.annotations.warnings == [
        "7 slides with label 0 have outlines that are taken as positive: n0, n1, n2, n3, n4 and 2 more",
        "1 slide with label 1 has an annotation without anything that is taken as positive: truth 0 everywhere: p",
    ]


def test_what_could_not_be_read_is_unknown_and_not_negative(slides: Slides) -> None:
    two_vertices = feature("Tumor", "Polygon", [[[1, 1], [2, 2], [1, 1]]])
    slides.add("bad", 1, [two_vertices])
    slides.add("label-0", 0, [two_vertices])
    slides.add("broken", "", [])
    slides.add("marks", 1, [feature("Tumor", "Point", [5, 5])])
    slides.add("good", 1, [TUMOUR, two_vertices])
    (slides.folder / "broken.geojson").write_text("{")
    summary, truths = slides.tile(skip_bad_outlines=True)
    assert {name: set(truth) for name, truth in truths.items()} == {
        "bad": {-1}, "label-0": {0}, "broken": {-1}, "marks": {-1}, "good": {0, 1},
    }  # fmt: skip
    (warning,) = summary.annotations.warnings
    assert "4 slides have an annotation that does not say what is positive" in warning
    assert "bad, label-0, broken, marks. The first:" in warning
    failed, _ = slides.tile(max_failed=1.0)
    assert set(failed.failures) == {"bad", "label-0", "broken", "good"}  # the default refuses them by name


def test_an_aperio_file_is_no_silent_zero(slides: Slides) -> None:
    corners = box(16, 16, 48, 48)[:-1], box(24, 24, 32, 32)[:-1]
    text = layers([("Tumor", [region(corners[0], Type="0")]), ("hole", [region(corners[1], Type="0", NegativeROA="1")])])
    slides.add("aperio", 1, None)
    slides.rows[-1] += "aperio.xml"
    (slides.folder / "aperio.xml").write_text(text)
    _, truths = slides.tile()
    assert sum(truths["aperio"]) == 15


def test_a_cohort_without_annotations_says_nothing_of_them(slides: Slides) -> None:
    slides.add("a", 1, None)
    summary, _ = slides.tile()
    assert summary.annotations.lines() == []
    assert "annotations" not in json.loads((slides.folder / "cohort" / "cohort.json").read_text())


def test_a_unit_of_before_is_read(tmp_path: Path) -> None:
    fields = {"fingerprint": "f", "status": "done", "num_patches": 0, "num_outlines_left_out": 2, "tars": {"a.tar": 1}}
    schema = UNIT_SCHEMA.with_metadata({METADATA_KEY: json.dumps(fields).encode()})
    pq.write_table(pa.table({name: [] for name in schema.names}, schema=schema), tmp_path / "u.parquet")
    unit = read_unit(tmp_path / "u.parquet")
    assert (unit.num_outlines_left_out, unit.groups, unit.annotation_problem, unit.tars) == (2, {}, "", {"a.tar": 1})
