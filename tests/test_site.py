"""The site is built with warnings as errors and looked at in a browser; the docs' commands and patches are run on small data."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shards.drawn.drawn_slides import make_whole_slides
from tests.chromium import needs_chromium, open_page
from tests.documents import blocks_to_run
from tests.paths import ROOT
from tests.test_readme import SHORT, run

SETTINGS_OF = {"tile": ["--config", "demo"], "pretrain": ["--config", "demo", *SHORT], "train": ["--config", "demo", *SHORT]}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(ROOT / "docs"), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_has_every_page_and_what_the_program_says_of_itself(site: Path) -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.stem for path in site.glob("*.html")}
    assert "mining.neg_ratio" in (site / "settings.html").read_text(encoding="utf-8")
    assert "--shard-of" in (site / "commands.html").read_text(encoding="utf-8")
    assert "MahmoodLab/UNI2-h" in (site / "encoders.html").read_text(encoding="utf-8")


@pytest.mark.slow
@needs_chromium
def test_no_page_scrolls_sideways_complains_or_asks_the_network(site: Path) -> None:
    paths = sorted(site.glob("*.html"))
    with open_page(paths[0], 1280) as page:
        for path in paths:
            page.open(path.as_uri(), 1280)
            assert page.run("location.pathname") == str(path)
            for width in (1280, 400):
                page.resize(width)
                assert page.run("innerWidth") == width
                assert page.run("document.documentElement.scrollWidth") <= width, path.name
            assert page.run("[...document.images].every(image => image.complete && image.naturalWidth > 0)"), path.name
            assert page.problems == [], path.name


@pytest.mark.slow
def test_the_commands_of_your_slides_run(tmp_path: Path) -> None:
    make_whole_slides(tmp_path, 20, 512, 32, seed=0, tissue_share=0.55, tumour_share=0.2)
    commands = blocks_to_run(ROOT / "docs" / "your-slides.md")
    assert len(commands) >= 10
    for command in commands:
        run([*command, *SETTINGS_OF.get(command[1], [])], tmp_path)
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "predictions" / "predictions.parquet").is_file()


@pytest.mark.slow
def test_the_worked_examples_pass_the_tests_of_encoders_and_aggregators(tmp_path: Path) -> None:
    for name in ("hnm", "shards", "launch", "configs", "benchmarks", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    patches = sorted((ROOT / "docs" / "examples").glob("*.patch"))
    assert [patch.stem for patch in patches] == ["autopool", "resnet34"]
    subprocess.run(["git", "apply", *map(str, patches)], cwd=tmp_path, check=True, timeout=60)
    tests = ["tests/hnm/aggregator/test_aggregators.py", "tests/hnm/encoder/test_resnet.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", *tests, "-k", "autopool or torchvisions"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTEST_ADDOPTS": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[autopool] PASSED" in done.stdout
    assert "[resnet34-21797672-513000] PASSED" in done.stdout
