import io
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import webdataset as wds

from shards.tiling.tar import remove_tars, write_tars


def jpegs(num_patches: int) -> list[tuple[int, int, bytes]]:
    generator = np.random.default_rng(0)
    patches = generator.integers(0, 256, (num_patches, 16, 16, 3), dtype=np.uint8)
    return [(16 * i, 32 * i, simplejpeg.encode_jpeg(patch, 90, "RGB", "444")) for i, patch in enumerate(patches)]


def test_entries_say_where_the_jpegs_are(tmp_path: Path) -> None:
    samples = jpegs(10)
    entries = write_tars(tmp_path, "slide", samples, 10**6)
    assert {entry.tar_name for entry in entries} == {"slide-0000.tar"}
    content = (tmp_path / "slide-0000.tar").read_bytes()
    for entry, (_, _, jpeg) in zip(entries, samples, strict=True):
        stored = content[entry.offset : entry.offset + entry.nbytes]
        assert stored == jpeg
        assert simplejpeg.decode_jpeg(stored).shape == (16, 16, 3)


def test_a_rebuild_is_the_same_bytes(tmp_path: Path) -> None:
    write_tars(tmp_path / "one", "slide", jpegs(5), 10**6)
    time.sleep(1.1)  # a time stamp would have whole seconds
    write_tars(tmp_path / "two", "slide", jpegs(5), 10**6)
    assert (tmp_path / "one" / "slide-0000.tar").read_bytes() == (tmp_path / "two" / "slide-0000.tar").read_bytes()
    with tarfile.open(tmp_path / "one" / "slide-0000.tar") as tar:
        member = tar.getmembers()[3]
    assert (member.name, member.mtime, member.uid, member.gid, member.mode) == ("slide_48_96.jpg", 0, 0, 0, 0o644)


@pytest.mark.parametrize("key", ["s", "a" * 60, "b" * 95])  # the longest name of ustar has 100 bytes
def test_headers_are_those_of_tarfile(tmp_path: Path, key: str) -> None:
    samples = jpegs(7)
    if len(key) > 90:
        with pytest.raises(ValueError, match="name is too long"):
            write_tars(tmp_path, key, samples, 10**6)
        return
    write_tars(tmp_path, key, samples, 10**6)
    with tarfile.open(tmp_path / "expected.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for x, y, jpeg in samples:
            member = tarfile.TarInfo(f"{key}_{x}_{y}.jpg")
            member.size = len(jpeg)
            tar.addfile(member, io.BytesIO(jpeg))
    assert (tmp_path / f"{key}-0000.tar").read_bytes() == (tmp_path / "expected.tar").read_bytes()


def test_a_full_tar_is_followed_by_the_next(tmp_path: Path) -> None:
    samples = jpegs(30)
    entries = write_tars(tmp_path, "slide", samples, 20_000)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"slide-{number:04d}.tar" for number in range(len(names))]
    assert len(names) > 2
    for path in tmp_path.iterdir():
        with tarfile.open(path) as tar:
            used = sum(512 + -(-member.size // 512) * 512 for member in tar.getmembers())
        assert used + 1024 <= 20_000
    for entry, (_, _, jpeg) in zip(entries, samples, strict=True):
        content = (tmp_path / entry.tar_name).read_bytes()
        assert content[entry.offset : entry.offset + entry.nbytes] == jpeg


def test_a_jpeg_larger_than_the_limit_gets_a_tar_of_its_own(tmp_path: Path) -> None:
    entries = write_tars(tmp_path, "slide", jpegs(3), 100)
    assert [entry.tar_name for entry in entries] == ["slide-0000.tar", "slide-0001.tar", "slide-0002.tar"]


def test_nothing_to_write_is_no_tar(tmp_path: Path) -> None:
    assert write_tars(tmp_path, "slide", [], 10**6) == []
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_no_half_tar(tmp_path: Path) -> None:
    def breaking() -> Iterator[tuple[int, int, bytes]]:
        yield from jpegs(3)
        raise RuntimeError("read error")

    with pytest.raises(RuntimeError, match="read error"):
        write_tars(tmp_path, "slide", breaking(), 10**6)
    assert list(tmp_path.iterdir()) == []


def test_stock_webdataset_reads_the_tars(tmp_path: Path) -> None:
    samples = jpegs(30)
    write_tars(tmp_path, "slide", samples, 20_000)
    urls = sorted(str(path) for path in tmp_path.glob("*.tar"))
    read = list(wds.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in read] == [f"slide_{x}_{y}" for x, y, _ in samples]
    assert [sample["jpg"] for sample in read] == [jpeg for _, _, jpeg in samples]


def test_removing_spares_the_slides_with_a_similar_name(tmp_path: Path) -> None:
    for key in ("a", "a-0000", "ab", "a-b"):
        write_tars(tmp_path, key, jpegs(1), 10**6)
    remove_tars(tmp_path, "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-0000-0000.tar", "a-b-0000.tar", "ab-0000.tar"]
