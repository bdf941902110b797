"""`hnm doctor`: versions against the package's own metadata, devices, disk, and an exit code that says what is missing."""

import os
import re
from importlib import metadata
from pathlib import Path

import pytest

import launch.verbs.doctor
from launch.verbs.doctor import run
from tests.hub import COMMIT, hub_of

METADATA = """Metadata-Version: 2.1
Name: hnm
Version: 0.1.0
Provides-Extra: remote
Provides-Extra: luxury
Requires-Dist: numpy==1.0
Requires-Dist: no-such-package==3.1
Requires-Dist: not-for-this-machine==1.0; sys_platform == "none"
Requires-Dist: pytest>=1; extra == "remote"
Requires-Dist: no-such-option; extra == "luxury"
"""


@pytest.fixture(autouse=True)
def enough_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.verbs.doctor, "LOW_DISK_GB", 0.0)


@pytest.fixture
def other_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with another description of the package hnm, which is found before the one that is installed."""
    folder = tmp_path / "hnm-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(METADATA, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_report_of_a_machine_that_has_everything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert run() == 0
    out = capsys.readouterr().out
    for package in ("torch", "numpy", "openslide-python", "mlflow", "submitit"):
        assert re.search(rf"^{package} +\d+\.\d+[^ ]*$", out, re.MULTILINE), package  # as pinned: nothing more is said
    for line in ("python", "cpu", "gpu", "backends", "ranks", "scheduler", "disk"):
        assert re.search(rf"^{line} ", out, re.MULTILINE), line
    for extra in metadata.metadata("hnm").get_all("Provides-Extra") or []:
        assert re.search(rf"^\[{extra}\] +there$", out, re.MULTILINE), extra
    assert f"{os.cpu_count()} cores" in out
    assert "gloo" in out
    assert "no launcher in the environment" in out
    assert "nothing is missing. Try: hnm demo" in out


def test_what_is_missing_differs_or_is_an_option_is_said(
    other_metadata: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert run() == 1
    out = capsys.readouterr().out
    assert re.search(r"^no-such-package MISSING$", out, re.MULTILINE)
    assert "missing     no-such-package: pip install 'no-such-package==3.1'" in out
    assert re.search(r"^numpy +\d[^ ]* \(seen to work: ==1\.0\)$", out, re.MULTILINE)
    assert "not-for-this-machine" not in out
    assert re.search(r"^\[remote\] +there$", out, re.MULTILINE)
    assert "[luxury]    not there: no-such-option. If you need it: pip install 'hnm[luxury]'" in out
    assert "this is rank 3 of 8" in out


def test_another_version_and_a_missing_option_are_no_failure(
    other_metadata: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = other_metadata / "hnm-0.1.0.dist-info" / "METADATA"
    described.write_text(METADATA.replace("Requires-Dist: no-such-package==3.1\n", ""), encoding="utf-8")
    assert run() == 0
    assert "nothing is missing" in capsys.readouterr().out


def test_too_little_disk_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch.verbs.doctor, "LOW_DISK_GB", 1e9)
    assert run() == 1
    out = capsys.readouterr().out
    assert "missing     disk space: " in out
    assert f"GB free in {tmp_path}" in out


def test_a_checkout_that_is_not_installed_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_installed(package: str) -> list[str]:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "requires", not_installed)
    assert run() == 1
    assert "missing     hnm is not installed here, only its files are" in capsys.readouterr().out


def test_an_encoder_that_is_not_here_is_missing_and_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with hub_of(tmp_path / "hub", tmp_path / "cache", monkeypatch):
        assert run("uni2-h") == 1
        assert "missing     encoder uni2-h: the hub has no https://huggingface.co/MahmoodLab/UNI2-h" in capsys.readouterr().out
        (tmp_path / "hub" / "MahmoodLab" / "UNI2-h").mkdir(parents=True)
        assert run("uni2-h") == 0
        assert "encoder     uni2-h: not here, but the hub would give it" in capsys.readouterr().out
        cached = tmp_path / "cache" / "models--MahmoodLab--UNI2-h"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text(COMMIT)
        (cached / "snapshots" / COMMIT).mkdir(parents=True)
        (cached / "snapshots" / COMMIT / "pytorch_model.bin").write_bytes(b"")
        assert run("uni2-h") == 0
        assert f"{COMMIT}/pytorch_model.bin" in capsys.readouterr().out
    assert run("torchvision/resnet50") == 1
    assert "its weights are on no hub. Give a file" in capsys.readouterr().out
