"""From a corrected drawing to known patches: by hand, on the tiny cohort's grid of 16 px."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.cohort.cohort import Cohort
from shards.cohort.corrections import CORRECTIONS, Corrections, read_corrections, write_corrections
from shards.errors import InputError
from shards.tiling.corrected import mark_slide, slide_of_file


def region(name: str | None, *corners: int) -> dict[str, Any]:
    """Return a rectangle (left, top, right, bottom) of a class, as QuPath exports it."""
    left, top, right, bottom = corners
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    properties = {"objectType": "annotation"} | ({"classification": {"name": name}} if name else {})
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


def write_regions(path: Path, *regions: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(regions)}), encoding="utf-8")
    return path


def corners_of(cohort: Cohort, ids: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(cohort.patches.x_level0[ids].tolist(), cohort.patches.y_level0[ids].tolist(), strict=True))


def test_patches_in_regions_are_known_and_others_are_not(tiny_cohort: Path, tmp_path: Path) -> None:
    cohort = Cohort.open(tiny_cohort)
    path = write_regions(
        tmp_path / "x.geojson",
        region("normal", 0, 0, 40, 40),  # 16 and 8 of 16 px in the third column and row: half lies in it, a quarter in the corner
        region("Tumor: Positive", 0, 0, 16, 16),  # an island
        region("positive patch", 48, 48, 64, 64),  # of hnm predict: nobody has said anything of it
        region(None, 48, 0, 64, 16),
    )
    marked = mark_slide(cohort, 2, path, ["Tumor"], ["Normal"], 0.5)
    labels = dict(zip(corners_of(cohort, marked.known.ids), marked.known.labels.tolist(), strict=True))
    expected = {(x, y): 0 for x in (0, 16, 32) for y in (0, 16, 32)} | {(0, 0): 1}
    del expected[32, 32]
    assert labels == expected
    assert set(marked.known.ids // 16) == {2}
    assert marked.ignored == {"positive patch": 1, "(no class)": 1}


def test_another_slides_file_is_refused(tiny_cohort: Path, tmp_path: Path) -> None:
    cohort = Cohort.open(tiny_cohort)
    path = write_regions(tmp_path / "x.geojson", region("Normal", 0, 0, 900, 900))
    with pytest.raises(InputError, match=r"outside of the slide's 64 x 64 level-0"):
        mark_slide(cohort, 0, path, ["Tumor"], ["Normal"], 0.5)


def test_a_file_is_found_by_name_key_or_picture(tiny_cohort: Path) -> None:
    cohort = Cohort.open(tiny_cohort)
    name, picture = str(cohort.slide_ids[4]), Path(cohort.slides["path"][4].as_py())
    for file in (f"{name}.geojson", f"{name.upper()}.json", f"{picture.name}.geojson", f"{picture.stem}.corrected.geojson"):
        assert slide_of_file(cohort, Path("corrections") / file) == 4
    with pytest.raises(InputError, match=r"no slide of .* has this name"):
        slide_of_file(cohort, Path("other.geojson"))


def corrections(**labels: int) -> Corrections:
    ids = np.array([int(name[1:]) for name in labels], np.int64)
    return Corrections(ids, np.array(list(labels.values()), np.int8), np.full(len(ids), "a", object))


def test_what_a_file_says_replaces_what_it_said_before(tmp_path: Path) -> None:
    before = corrections(p3=0, p5=1, p9=0)
    after = before.replaced(corrections(p4=0, p5=0), 0, 8, "a")
    assert (after.ids.tolist(), after.labels.tolist()) == ([4, 5, 9], [0, 0, 0])
    kept = before.replaced(corrections(p4=1), 0, 8, "b")  # another file: only what it speaks of
    assert (kept.ids.tolist(), kept.labels.tolist()) == ([3, 4, 5, 9], [0, 1, 1, 0])
    keep = np.array([True, True, False, True, True, False, True, True, True, True])
    assert after.restricted(keep).ids.tolist() == [3, 7]
    write_corrections(tmp_path, after, "abc")
    read = read_corrections(tmp_path, "abc")
    assert read.digest == after.digest != before.digest
    assert read.files.tolist() == ["a", "a", "a"]
    with pytest.raises(InputError, match="fingerprint was abc; now it is def"):
        read_corrections(tmp_path, "def")
    (tmp_path / CORRECTIONS).write_bytes(b"PAR1")
    with pytest.raises(InputError, match="not readable"):
        read_corrections(tmp_path, "abc")
    write_corrections(tmp_path, Corrections.none(), "abc")
    assert not len(read_corrections(tmp_path, "abc"))
