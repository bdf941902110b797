import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shards.cohort.cohort import PATCH_SCHEMA, Cohort
from shards.errors import InputError
from shards.tiling.tile import TileConfig, tile_cohort


def write_cohort(folder: Path, name: str = "cohort") -> Path:
    """Write a cohort of three slides with 4, 0 and 2 patches of 8 px."""
    for slide, size in {"a": (16, 16), "b": (4, 4), "c": (8, 16)}.items():
        Image.new("RGB", size, "pink").save(folder / f"{slide}.png")
    text = "slide_id,path,label,label_x,split\na,a.png,1,,train\nb,b.png,0,1,test\nc,c.png,,0,\n"
    (folder / "slides.csv").write_text(text)
    tile_cohort(folder / "slides.csv", folder / name, TileConfig(patch_px=8))
    return folder / name


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort.open(write_cohort(tmp_path))


def test_a_patch_is_a_row_number_in_slide_order(cohort: Cohort) -> None:
    assert (cohort.num_slides, cohort.num_patches) == (3, 6)
    assert cohort.slide_ids.tolist() == ["a", "b", "c"]
    assert cohort.patch_bounds.tolist() == [0, 4, 4, 6]
    assert cohort.patches.slide.tolist() == [0, 0, 0, 0, 2, 2]
    for field in PATCH_SCHEMA:
        assert getattr(cohort.patches, field.name).dtype == field.type.to_pandas_dtype()


def test_labels_and_splits(cohort: Cohort) -> None:
    assert cohort.labels().tolist() == [1, 0, -1]
    assert cohort.labels().dtype == np.int8
    assert cohort.labels("label_x").tolist() == [-1, 1, 0]
    assert cohort.splits().tolist() == ["train", "test", ""]


def test_an_unknown_column_is_named_with_the_key_to_set(cohort: Cohort) -> None:
    with pytest.raises(InputError, match=r"no column 'label_y'. Set data.label_column to one of: .*label_x"):
        cohort.labels("label_y")
    with pytest.raises(InputError, match=r"Set data.split_column to one of"):
        cohort.splits("fold")


def test_shard_paths_exist(cohort: Cohort) -> None:
    assert [cohort.shard_path(shard).name for shard in np.unique(cohort.patches.shard)] == ["a-0000.tar", "c-0000.tar"]
    assert all(cohort.shard_path(shard).is_file() for shard in cohort.patches.shard)


def test_restricted_keeps_the_slides_and_counts_the_patches_anew(cohort: Cohort) -> None:
    small = cohort.restricted(np.array([False, True, True, False, False, True]))
    assert (small.num_slides, small.num_patches) == (3, 3)
    assert small.patch_bounds.tolist() == [0, 2, 2, 3]
    assert small.patches.y_level0.tolist() == [0, 8, 8]
    assert small.fingerprint != cohort.fingerprint


def test_the_fingerprint_is_of_the_content(tmp_path: Path, cohort: Cohort) -> None:
    assert Cohort.open(write_cohort(tmp_path, "again")).fingerprint == cohort.fingerprint


def test_a_folder_without_a_finished_cohort(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no cohort here .*Make one with: hnm tile"):
        Cohort.open(tmp_path)


def test_a_cohort_of_another_version(tmp_path: Path) -> None:
    root = write_cohort(tmp_path)
    info = json.loads((root / "cohort.json").read_text())
    (root / "cohort.json").write_text(json.dumps(info | {"format_version": 99}))
    with pytest.raises(InputError, match=r"format_version is 99, this hnm reads 1\. Tile the slides again"):
        Cohort.open(root)


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("name", ["cohort.json", "slides.parquet", "patches.parquet"])
def test_a_pickle_bomb_in_a_cohort_does_not_go_off(tiny_cohort: Path, tmp_path: Path, name: str) -> None:
    cohort = tmp_path / "cohort"
    shutil.copytree(tiny_cohort, cohort, ignore=shutil.ignore_patterns("shards"))
    (cohort / name).write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    with pytest.raises(InputError, match=name):
        Cohort.open(cohort)
    assert not (tmp_path / "boom").exists()
    pickle.loads((cohort / name).read_bytes())  # it is a real one
    assert (tmp_path / "boom").is_dir()


def test_a_shard_name_that_leads_out_of_the_cohort_is_refused(tiny_cohort: Path, tmp_path: Path) -> None:
    strange = tmp_path / "cohort"
    shutil.copytree(tiny_cohort, strange)
    info = json.loads((strange / "cohort.json").read_text(encoding="utf-8"))
    info["shards"][3] = "../../bashrc"
    (strange / "cohort.json").write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(InputError, match=r"cohort\.json: '\.\./\.\./bashrc' is no plain file name"):
        Cohort.open(strange)
