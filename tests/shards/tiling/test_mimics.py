"""Known mimics: of points and of outlines, by patch id, and never positive."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from shards.cohort.cohort import MIMICS, Cohort
from shards.drawn.drawn_slides import write_asap
from shards.drawn.synthetic import make_cohort_images
from shards.errors import InputError
from shards.tiling.tile import tile_cohort
from shards.tiling.tile_config import TileConfig

PX = 16
AT_POINTS = TileConfig(patch_px=PX, points_file=Path("points.csv"), positive_class="tumour", mimic_groups=["mimic"])


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Slides.csv of 6 drawn slides of 5 x 5 tiles, two of them mimics, and points.csv beside it."""
    return make_cohort_images(tmp_path / "drawn", 6, 5, PX, seed=0, mimic_share=0.08)


def test_of_points(drawn: Path, tmp_path: Path) -> None:
    summary = tile_cohort(drawn, tmp_path / "cohort", AT_POINTS)
    cohort = Cohort.open(tmp_path / "cohort")
    assert cohort.mimics is not None
    words = [line.rsplit(",", 1)[1] for line in (drawn.parent / "points.csv").read_text().splitlines()[1:]]
    np.testing.assert_array_equal(cohort.mimics, np.array(words) == "mimic")  # a patch a point, in the file's order
    assert summary.num_mimics == cohort.mimics.sum() == 12
    assert not cohort.patches.truth[cohort.mimics].any()
    kept = np.arange(cohort.num_patches) % 3 > 0
    np.testing.assert_array_equal(cohort.restricted(kept).mimics, cohort.mimics[kept])


def test_of_outlines_which_may_change_without_cutting_anew(drawn: Path, tmp_path: Path) -> None:
    box = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * PX
    write_asap(drawn.parent / "outlines.xml", [("Tumor", box), ("Mimic", box * [2, 1] + [PX, PX])])
    header, *rows = drawn.read_text().splitlines()
    with_annotation = [f"{row},{'outlines.xml' if row.startswith('slide-001') else ''}" for row in rows]
    drawn.write_text("\n".join([f"{header},annotation", *with_annotation]) + "\n")
    config = TileConfig(patch_px=PX, positive_groups=["Tumor"])
    assert tile_cohort(drawn, tmp_path / "cohort", config).num_mimics is None
    assert Cohort.open(tmp_path / "cohort").mimics is None
    summary = tile_cohort(drawn, tmp_path / "cohort", config.model_copy(update={"mimic_groups": ["mimic"]}))
    assert (summary.num_tiled, summary.num_mimics) == (0, 2)
    cohort = Cohort.open(tmp_path / "cohort")
    assert cohort.mimics is not None
    assert np.flatnonzero(cohort.mimics).tolist() == [25 + 5 + 1, 25 + 5 + 2]
    (tmp_path / "cohort" / MIMICS).unlink()
    with pytest.raises(InputError, match=r"mimics.npy: not readable .*Run the same hnm tile again"):
        Cohort.open(tmp_path / "cohort")


def test_names_that_cannot_be_meant_are_refused(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="'Mimic' counts as positive"):
        TileConfig(mimic_groups=["Mimic"])
    with pytest.raises(ValidationError, match="'tumour' counts as positive"):
        TileConfig(points_file=Path("points.csv"), positive_class="tumour", mimic_groups=["tumour"])
    with pytest.raises(InputError, match=r"no point has class 'mimc'. Set tile.mimic_groups to some of: .*'mimic'"):
        tile_cohort(drawn, tmp_path / "cohort", AT_POINTS.model_copy(update={"mimic_groups": ["mimc"]}))
