"""`hnm doctor`: versions, devices, disk, and an exit code that says whether something is missing."""

import os
import re
from pathlib import Path

import pytest

import launch.verbs.doctor
from launch.verbs.doctor import NEEDED, run


def test_the_report_of_a_machine_that_has_everything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(launch.verbs.doctor, "LOW_DISK_GB", 0.0)
    assert run() == 0
    out = capsys.readouterr().out
    for package in (*NEEDED, "mlflow"):
        assert re.search(rf"^{package} +\d+\.\d+", out, re.MULTILINE)
    for line in ("python", "cpu", "gpu", "backends", "ranks", "scheduler", "disk"):
        assert re.search(rf"^{line} ", out, re.MULTILINE), line
    assert f"{os.cpu_count()} cores" in out
    assert "gloo" in out
    assert "no launcher in the environment" in out
    assert "nothing is missing. Try: hnm demo" in out


def test_what_is_missing_is_said_with_its_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch.verbs.doctor, "NEEDED", ("numpy", "no-such-package"))
    monkeypatch.setattr(launch.verbs.doctor, "LOW_DISK_GB", 1e9)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert run() == 1
    out = capsys.readouterr().out
    assert "no-such-package MISSING" in out
    assert "missing     no-such-package: pip install no-such-package" in out
    assert "missing     disk space: " in out
    assert f"GB free in {tmp_path}" in out
    assert "this is rank 3 of 8" in out


def test_an_option_that_is_missing_is_no_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch.verbs.doctor, "OPTIONAL", {"no-such-option": "a luxury"})
    monkeypatch.setattr(launch.verbs.doctor, "LOW_DISK_GB", 0.0)
    assert run() == 0
    assert "missing     no-such-option: pip install no-such-option (a luxury)" in capsys.readouterr().out
