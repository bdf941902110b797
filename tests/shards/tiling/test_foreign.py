"""Previews, pointers, web pages and archives are not slides."""

import gzip
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from shards.errors import InputError
from shards.tiling.foreign import NEVER_GENERIC, VENDOR_SUFFIXES
from shards.tiling.slide_reader import open_slide
from tests.paths import CMU, needs_slides

GREY = np.full((256, 256, 3), 200, np.uint8)


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error, open_slide(path):
        pass
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", sorted(VENDOR_SUFFIXES))
def test_a_preview_under_a_vendors_suffix_is_refused(tmp_path: Path, suffix: str) -> None:
    for upper in (suffix, suffix.upper()):
        path = tmp_path / f"slide{upper}"
        Image.fromarray(GREY).save(path, format="JPEG")
        assert "Copy the file anew" not in refused(path)
        tifffile.imwrite(path, GREY, photometric="rgb")
        assert "Copy the file anew" not in refused(path)
    if suffix in NEVER_GENERIC:
        tifffile.imwrite(path, GREY, photometric="rgb", tile=(128, 128))
        refused(path)


def test_the_reason_names_the_folder_that_is_missing(tmp_path: Path) -> None:
    for name in ("a.mrxs", "b.vsi"):
        Image.fromarray(GREY).save(tmp_path / name, format="JPEG")
    assert "its folder a/ is missing beside it" in refused(tmp_path / "a.mrxs")
    assert "the scan lies in the folder _b_/" in refused(tmp_path / "b.vsi")
    (tmp_path / "a").mkdir()
    assert "has no Slidedat.ini that can be read in its folder a/" in refused(tmp_path / "a.mrxs")


@needs_slides
def test_a_whole_slide_keeps_its_name_and_a_generic_pyramid_may_be_named_svs(tmp_path: Path) -> None:
    shutil.copy(CMU, tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.svs", GREY, photometric="rgb", tile=(128, 128))
    for name, width in (("a.tif", 2220), ("b.svs", 256)):
        with open_slide(tmp_path / name) as slide:
            assert slide.width == width


@pytest.mark.parametrize("tile", [(128, 128), None])
def test_a_small_first_page_before_a_large_one_is_a_preview(tmp_path: Path, tile: tuple[int, int] | None) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(GREY, photometric="rgb", tile=tile, metadata=None)
        tiff.write(np.repeat(np.repeat(GREY, 2, 0), 2, 1), photometric="rgb", metadata=None)
    assert "page 2 is 512 x 512: only a preview would be read" in refused(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.svs", "a.tif", "a.png", "a.mrxs"])
def test_a_failed_download_is_called_what_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    contents = {
        "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n",
        "git annex get": b"/annex/objects/SHA256E-s100--00.svs\n",
        "a web page": b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>",
        "a JSON text.*'{\"message\": \"not found\"}'": b'{"message": "not found"}',
        "an XML text.*AccessDenied": b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
        "a gzip archive. Unpack it": gzip.compress(b"slide"),
        "A Zeiss CZI": b"ZISRAWFILE" + bytes(600),
    }
    for words, content in contents.items():
        path.write_bytes(content)
        with pytest.raises(InputError, match=words) as error, open_slide(path):
            pass
        assert "Copy the file anew" not in str(error.value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("slide.svs", "x")
    assert "a zip archive. Unpack it" in refused(path)
    path.write_bytes(b"")
    assert "an empty file (0 bytes). Copy the file anew" in refused(path)
    path.write_bytes(bytes(10_000))
    assert "zeros only" in refused(path)


def test_an_unsupported_compression_is_no_damage(tmp_path: Path) -> None:
    for tile in ((128, 128), None):
        tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="rgb", tile=tile, compression="jpeg2000")
        told = refused(tmp_path / "a.tif") if tile is None else ""
        with pytest.raises(InputError) as error, open_slide(tmp_path / "a.tif") as slide:
            slide.read(0, 0, 256, 256)
        told = told or str(error.value)
        assert "compression" in told
        assert "Copy the file anew" not in told
