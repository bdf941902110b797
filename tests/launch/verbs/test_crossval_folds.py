"""The folder of a cross-validation by site: its split columns, what is told of them, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnm.config import load_config
from launch.verbs.crossval_folder import alone, check, open_folder
from launch.verbs.crossval_folds import folds_told
from shards.errors import InputError
from tests.launch.verbs.test_crossval import SHORT, request


def with_sites(cohort: Path, sites: list[str]) -> Path:
    table = pq.read_table(cohort / "slides.parquet")
    pq.write_table(table.append_column("site", pa.array(sites)), cohort / "slides.parquet")
    return cohort


def test_folds_by_site_are_written_and_told(tiny_cohort: Path, tmp_path: Path) -> None:
    cohort = with_sites(shutil.copytree(tiny_cohort, tmp_path / "cohort"), [f"site-{slide // 2}" for slide in range(10)])
    for split_by, num_folds in (("site", 3), ("each_site", 5)):
        asked = request(cohort, tmp_path / split_by, f"data.split_by={split_by}", num_folds=num_folds, repeats=2)
        config = load_config(None, "hnm", asked.overrides)
        opened = check(asked, config)
        with alone(asked.out):
            open_folder(asked, config, opened)
        told = folds_told(config, opened, num_folds, 2)
        assert [line[:18] for line in told[:2]] == ["repeat 0: 5 sites,", "repeat 1: 5 sites,"]
        slides = pq.read_table(asked.out / "cohort" / "slides.parquet").to_pandas()
        for fold in range(num_folds):
            assert (slides.groupby("site")[f"split_0_{fold}"].nunique() == 1).all()
        with pytest.raises(InputError, match=r"other settings \(data.split_by: .*site -> patient\)"):
            check(replace(asked, overrides=SHORT), load_config(None, "hnm", SHORT))
    with pytest.raises(InputError, match=r"each of the 5 sites with labelled slides is a fold. Give --folds 5"):
        check(replace(asked, num_folds=3, out=tmp_path / "other"), config)
    with pytest.raises(InputError, match=r"data.split_by: of 10 of 10 slides the site is not known"):
        check(replace(asked, cohort=tiny_cohort, out=tmp_path / "other"), config)
