"""OpenSeadragon is taken only as the lock file has it, and the lock file as npm would read it."""

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from hnm.view.fetch_viewer import HERE, LOCK, MEMBERS, is_fetched, unpack


def package(members: dict[str, bytes]) -> tuple[bytes, str]:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue(), "sha512-" + base64.b64encode(hashlib.sha512(file.getvalue()).digest()).decode()


def test_only_what_has_the_hash_is_written_and_only_what_is_used(tmp_path: Path) -> None:
    content, integrity = package({**dict.fromkeys(MEMBERS, b"x"), "package/../../evil.js": b"y"})
    with pytest.raises(ValueError, match="not used"):
        unpack(content + b" ", integrity, tmp_path / "viewer")
    assert not (tmp_path / "viewer").exists()
    unpack(content, integrity, tmp_path / "viewer")
    assert is_fetched(tmp_path / "viewer")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(MEMBERS.values())


def test_the_lock_file_states_version_place_and_hash() -> None:
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]["openseadragon"]
    locked = json.loads(LOCK.read_text())["packages"]["node_modules/openseadragon"]
    assert locked["version"] == wanted
    assert locked["resolved"] == f"https://registry.npmjs.org/openseadragon/-/openseadragon-{wanted}.tgz"
    assert locked["integrity"].startswith("sha512-")
    assert locked["license"] == "BSD-3-Clause"
