"""`hnm import`: cohorts from the files of other tools, by way of the command line."""

from pathlib import Path

import numpy as np
import pytest

from shards.cohort.cohort import Cohort
from shards.drawn.drawn_slides import make_whole_slides
from tests.command_line import assert_refused, hnm
from tests.shards.exchange.foreign_files import trident


@pytest.fixture(scope="module")
def slides_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whole_slides(tmp_path_factory.mktemp("drawn"), 6, 512, 32, seed=0)


def _jpegs(cohort: Cohort, slide: int) -> dict[tuple[int, int], bytes]:
    """Return the JPEG of each patch of a slide by its place."""
    found = {}
    for row in range(*cohort.patch_bounds[slide : slide + 2]):
        of_patch = cohort.patches.take(np.array([row]))
        data = cohort.shard_path(int(of_patch.shard[0])).read_bytes()
        start = int(of_patch.offset[0])
        found[int(of_patch.x_level0[0]), int(of_patch.y_level0[0])] = data[start : start + int(of_patch.nbytes[0])]
    return found


def test_just_the_patches_of_another_tool_are_cut(slides_csv: Path, tmp_path: Path) -> None:
    plain = ["tile.patch_px=32", "tile.mpp=0.5", "tile.background=none"]
    assert hnm("tile", slides_csv, tmp_path / "all", "--workers", "1", *plain).exit_code == 0
    every = Cohort.open(tmp_path / "all")
    coords = tmp_path / "coords"
    coords.mkdir()
    xy = np.array([[64, 32], [480, 480], [0, 0], [500, 10]])
    for slide_id in every.slide_ids:
        trident(coords / f"{slide_id}_patches.h5", xy, 32)
    result = hnm("import", "coords", slides_csv, coords, tmp_path / "some", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert "24 patches in 6 files of TRIDENT: tile.patch_px=32, tile.mpp=0.5" in result.output
    assert "6 points without a patch of their own, or coordinates" in " ".join(result.output.split())
    some = Cohort.open(tmp_path / "some")
    assert some.slides["patch_level0"].to_pylist() == [32] * 6
    for slide in (0, 1):
        chosen, whole = _jpegs(some, slide), _jpegs(every, slide)
        assert list(chosen) == [(64, 32), (480, 480), (0, 0)]
        assert all(whole[place] == jpeg for place, jpeg in chosen.items())
    positive = every.patches.truth[slice(*every.patch_bounds[1:3])] == 1
    assert positive.any()  # and the annotation is looked at here, too
    assert set(some.patches.truth.tolist()) <= {0, 1}


def test_coordinates_of_another_slide_are_a_failed_slide_with_both_numbers(slides_csv: Path, tmp_path: Path) -> None:
    coords = tmp_path / "coords"
    coords.mkdir()
    for number in range(6):
        trident(coords / f"slide-00{number}.h5", np.array([[0, 0]]), 32, level0_height=512 + 100 * (number == 3))
    result = hnm("import", "coords", slides_csv, coords, tmp_path / "cohort", "--workers", "1")
    assert_refused(
        result, 1, "slide-003: failed: ", "is of a slide of 512 x 612 level-0 pixels; the slide has 512 x 512"
    )
    assert_refused(
        hnm("import", "coords", slides_csv, slides_csv.parent / "slides", tmp_path / "none"), 1, "there is: "
    )
