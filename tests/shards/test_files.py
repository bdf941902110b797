"""A file is whole or absent."""

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from shards.errors import InputError
from shards.files import NO_ROOM, ask_for_space, fsync_folder, plain_name, whole_file, write_array, write_json


def test_a_file_appears_whole_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    with whole_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent  # a rename must not cross file systems
        temporary.write_text("whole")
        inode = temporary.stat().st_ino
    assert path.read_text() == "whole"
    assert path.stat().st_ino == inode  # renamed: a copy could be seen half written
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), whole_file(path) as temporary:
        temporary.write_text("half \ud800", encoding="utf-8")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_arrays_come_back_as_they_were_and_objects_are_refused(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    write_array(tmp_path / "a.npy", array)
    back = np.load(tmp_path / "a.npy")
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    with pytest.raises(ValueError, match="allow_pickle"):
        write_array(tmp_path / "b.npy", np.array([{}]))
    assert not (tmp_path / "b.npy").exists()


def test_json_is_valid_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1, None, "ä"]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"a": [1, None, "ä"]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", {"a": math.nan})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    "name", ["../../bashrc", "/etc/passwd", "a/b.tar", "..", ".", "", ".hidden", "a\\b", "c:x", "a\0b", 7, None]
)
def test_a_name_that_leads_elsewhere_is_refused(name: object) -> None:
    with pytest.raises(InputError, match=r"^cohort\.json: .*no plain file name"):
        plain_name(name, Path("cohort.json"))


def test_a_plain_name_is_taken() -> None:
    assert plain_name("slide-1 (ä) 50%-0000.tar", Path("cohort.json")) == "slide-1 (ä) 50%-0000.tar"


def test_a_mount_that_cannot_fsync_a_folder_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    fsync_folder(tmp_path)


def test_space_that_there_is_not_is_told_before_the_work(tmp_path: Path) -> None:
    with open(tmp_path / "features", "wb") as file, pytest.raises(OSError, match="features") as told:
        ask_for_space(file, 1 << 55)  # 32 PB: more than a file system lets a file have, so that nothing is taken from this disk
    assert told.value.errno in NO_ROOM
