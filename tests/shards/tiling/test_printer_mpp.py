"""A slide whose header tells a printer's dots per inch: from file to survey."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from launch.verbs.tables import tile_lines
from shards.cohort.slides import Slide
from shards.errors import InputError
from shards.tiling.slide_reader import open_slide
from shards.tiling.survey import Survey, survey_slide
from shards.tiling.tile import tile_cohort
from shards.tiling.tile_config import TileConfig
from shards.tiling.unit import SlideJob


def survey_of(path: Path, table_mpp: float | None = None, assume_mpp: float | None = None) -> Survey:
    job = SlideJob(Slide("s", path, "p", {}, {}, table_mpp), None, "")
    with open_slide(path) as slide:
        return survey_slide(slide, job, TileConfig(patch_px=64, mpp=0.5, assume_mpp=assume_mpp))


def write(path: Path, dots: float, unit: str = "INCH", physical_size: float | None = None, tiled: bool = True) -> Path:
    sizes = {} if physical_size is None else {"PhysicalSizeX": physical_size, "PhysicalSizeY": physical_size}
    tifffile.imwrite(
        path,
        np.full((256, 256, 3), 180, np.uint8),
        tile=(128, 128) if tiled else None,
        photometric="rgb",
        metadata=sizes,
        ome=bool(sizes),
        resolution=(dots, dots),
        resolutionunit=unit,
    )
    return path


@pytest.mark.parametrize(
    ("unit", "dots"), [("INCH", dpi) for dpi in (1, 72, 96, 150, 300, 600, 1200)] + [("CENTIMETER", 118), ("NONE", 1)]
)
def test_a_printers_dpi_counts_for_nothing(tmp_path: Path, unit: str, dots: float) -> None:
    path = write(tmp_path / "a.tif", dots, unit)
    with pytest.raises(InputError, match=r"a.tif: its microns per pixel are unknown.*--assume-mpp"):
        survey_of(path)
    assumed = survey_of(path, assume_mpp=0.25)
    assert (assumed.source_mpp, assumed.mpp_from, assumed.patch_level0) == (0.25, "assumed", 128)
    table = survey_of(path, table_mpp=0.5, assume_mpp=0.25)
    assert (table.source_mpp, table.mpp_from) == (0.5, "table")


def test_the_error_names_what_was_not_believed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the file tells 352\.8 um/px \(header\).*, which no microscope has"):
        survey_of(write(tmp_path / "a.tif", 72))


def test_the_order_of_those_who_tell(tmp_path: Path) -> None:
    believed = survey_of(write(tmp_path / "a.tif", 40_000, "CENTIMETER", 0.5), assume_mpp=0.4)
    assert (believed.source_mpp, believed.mpp_from) == (0.25, "header")
    printer = write(tmp_path / "b.tif", 72, "INCH", 0.5)
    told = survey_of(printer)
    assert (told.source_mpp, told.mpp_from) == (0.5, "ome-xml")
    told = survey_of(printer, assume_mpp=0.4)
    assert (told.source_mpp, told.mpp_from) == (0.4, "assumed")
    silent = survey_of(write(tmp_path / "c.tif", 1, "NONE", 0.5), assume_mpp=0.4)
    assert (silent.source_mpp, silent.mpp_from) == (0.5, "ome-xml")


def test_a_table_that_contradicts_the_file_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", 20_000, "CENTIMETER")  # 0.5 um/px
    assert survey_of(path, table_mpp=0.52).mpp_from == "table"
    told = survey_of(path, table_mpp=0.25)
    assert (told.source_mpp, told.mpp_from) == (0.25, "table, against 0.5 of the file (header)")
    (tmp_path / "slides.csv").write_text("slide_id,path,label,mpp\na,a.tif,1,0.25\nb,b.tif,0,\n")
    write(tmp_path / "b.tif", 20_000, "CENTIMETER", tiled=True).open("ab").write(b"\0")  # another file than a.tif
    config = TileConfig(patch_px=32, mpp=0.5, background="none")
    summary = tile_cohort(tmp_path / "slides.csv", tmp_path / "cohort", config)
    (line,) = [line for line in tile_lines(summary, tmp_path / "cohort") if "microns per pixel" in line]
    assert line.startswith("warning: microns per pixel: of 1 slides the table's were taken (a: 0.25 of the table, against 0.5")
