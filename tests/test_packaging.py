"""A wheel built from the tree holds the packages and the configs, and works from anywhere."""

import configparser
import email
import importlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hnm.view.fetch_viewer import MEMBERS, is_fetched

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "setup.cfg", "setup.py", "LICENSE", "hnm", "shards", "launch", "configs")


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from the sdist beside it, that of a copy of the sources, so that the tree gets no build folder."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    for readme in ROOT.glob("README.md"):
        shutil.copy(readme, folder / readme.name)
    run(sys.executable, "-m", "build", "--no-isolation", cwd=folder)
    (built,) = (folder / "dist").glob("*.whl")
    return built


def test_it_holds_every_module_template_and_config(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {str(path.relative_to(ROOT)) for package in ("hnm", "shards", "launch") for path in (ROOT / package).rglob("*.py")}
    assert {"hnm/engine/ranks.py", "launch/cli/main.py", "shards/reading/plan.py"} <= modules  # of sub-packages, too
    assert modules <= names
    templates = {str(path.relative_to(ROOT)) for path in ROOT.glob("*/*/templates/*")}
    assert {"hnm/report/templates/run.html", "hnm/view/templates/view.js", "shards/tiling/templates/page.css"} <= templates
    assert "hnm/view/package-lock.json" in names
    viewer = {f"hnm/view/openseadragon/{name}" for name in MEMBERS.values()}  # with its licence
    assert viewer <= names or not is_fetched()
    assert templates <= names
    configs = {f"hnm/configs/{path.relative_to(ROOT / 'configs')}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert len(configs) >= 8
    assert configs <= names
    typed = {"hnm/py.typed", "launch/py.typed", "shards/py.typed", "hnm/__init__.pyi"}
    assert typed <= names
    assert not any(name.startswith(("tests/", "benchmarks/", "configs/")) for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_it_installs_and_finds_its_configs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    run(*pip, "--find-links", str(wheel.parent), "--target", str(target), "hnm", cwd=elsewhere)
    code = f"""
import sys
sys.path.insert(0, {str(target)!r})
import hnm
from hnm.config import list_names, load_config
from hnm.installed import config_folder
assert hnm.__file__.startswith({str(target)!r}), hnm.__file__
assert load_config("colon", "its2clr").tile.patch_px == 27
print(*list_names(config_folder()), *list_names(config_folder() / "presets"))
"""
    names = run(sys.executable, "-P", "-c", code, cwd=elsewhere).split()
    assert {"colon", "demo", "camelyon16", "tcga_luad", "hnm", "hnm-paper", "dsmil", "its2clr"} <= set(names)
    script = (target / "bin" / "hnm").read_text()
    assert "from launch.cli.main import main" in script


def test_the_metadata_is_what_an_index_asks_for(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        told = email.message_from_bytes(archive.read(name))
    assert (told["Name"], told["License"], told["Requires-Python"]) == ("hnm", "Apache-2.0", ">=3.11")
    assert told["Description-Content-Type"] == "text/markdown"
    assert "Typing :: Typed" in told.get_all("Classifier", [])
    assert "Paper, https://arxiv.org/abs/2410.02212" in told.get_all("Project-URL", [])
    assert not any("@" in line.split(";")[0] for line in told.get_all("Requires-Dist", []))  # an index refuses addresses


def test_both_containers_hold_what_a_wheel_is_built_from() -> None:
    docker = (ROOT / "slurm" / "Dockerfile").read_text(encoding="utf-8")
    apptainer = (ROOT / "slurm" / "apptainer.def").read_text(encoding="utf-8")
    (base,) = re.findall(r"^FROM (\S+:\S+) AS", docker, re.MULTILINE)
    assert f"From: {base}\n" in apptainer
    needed = {*SOURCES, "README.md"}
    copied = {word for line in re.findall(r"^COPY (?!--)(.*) \S+$", docker, re.MULTILINE) for word in line.split()}
    assert copied == set(re.findall(r"^    (\S+) /src/\1$", apptainer, re.MULTILINE)) == needed
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    assert set(re.findall(r"^!(\S+)$", ignored, re.MULTILINE)) == needed
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", docker, re.MULTILINE)
    assert f"/src[{extras}]" in apptainer
    assert set(extras.split(",")) <= set(setup["options.extras_require"])


def test_every_benchmark_can_be_started() -> None:
    names = [path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py")]
    assert len(names) >= 20
    for name in names:  # most are not run by the tests: what they import may have moved
        importlib.import_module(f"benchmarks.{name}")


def test_a_torch_of_ones_own_needs_everything_else_that_we_install() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    installed = setup["options"]["install_requires"].split("\n")
    ours = {line.strip() for line in installed if line.strip() and not line.strip().startswith("torch==")}
    lines = (ROOT / "requirements-own-torch.txt").read_text(encoding="utf-8").splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == ours
