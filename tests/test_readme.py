"""The long commands of README and docs are run, not believed."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launch.verbs.demo import ARMS, decisions_of
from shards.cohort.cohort import Cohort
from shards.cohort.slides import read_slides
from shards.tiling.pyramid import open_pyramid
from tests.paths import SHARED, needs_colon

ROOT = Path(__file__).parents[1]
SHORT = (
    "pretrain.epochs=1", "aggregate.epochs=3", "rounds.num_rounds=0", "finetune.epochs_per_round=1",
    "finetune.warmup_epochs=0", "encoder.width=0.0625", "tracking.enabled=false",
)  # fmt: skip


def block(name: str, page: str = "README.md") -> str:
    """Return the shell lines of a page between two marks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n```bash\n(.*?)\n```\n<!-- end -->", text, re.DOTALL)
    assert found, f"{page} has no block {name!r}"
    return found.group(1)


def run(command: list[str], folder: Path) -> str:
    """Run `hnm ...` or `python -m ...` as written, with this environment's Python."""
    module = ["-m", "launch.cli", *command[1:]] if command[0] == "hnm" else command[1:]
    done = subprocess.run(
        [sys.executable, *module], cwd=folder, capture_output=True, text=True, timeout=600, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that the README's demo command has filled, and what it printed."""
    command = shlex.split(block("demo command").split("&&")[-1])
    assert command == ["hnm", "demo"]
    folder = tmp_path_factory.mktemp("demo")
    return folder / "hnm-demo", run(command, folder)


@pytest.mark.slow
def test_the_demo_goes_all_the_way_and_learns(demo: tuple[Path, str]) -> None:
    folder, output = demo
    last_of_rank_1 = (folder / "run" / "log" / "heartbeat-001.json").stat().st_mtime  # it left before rank 0 drew the report
    assert last_of_rank_1 < min(path.stat().st_mtime for path in (folder / "run" / "figures").glob("*.png"))
    assert "slide AUC" in output
    assert "What to try next" in output
    metrics = json.loads((folder / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["slide"]["auc"] > 0.7


@pytest.mark.slow
def test_the_demo_shows_what_mining_changes(demo: tuple[Path, str]) -> None:
    folder, output = demo
    assert "negatives mined and at random" in output
    mined, random = (decisions_of(folder / ARMS[name]) for name in ("mined", "random"))
    assert mined[0]["validation_mimic_auc"] == random[0]["validation_mimic_auc"]  # one encoder, one aggregator
    for name in ("validation_instance_auc", "validation_mimic_auc"):
        assert mined[-1][name] > mined[0][name] + 0.05  # 0.11 and 0.13 or more in two seeds
    assert mined[-1]["validation_mimic_auc"] > random[-1]["validation_mimic_auc"]  # by 0.07 to 0.11 in two seeds


@pytest.mark.slow
def test_the_demo_starts_from_whole_slides_with_outlined_tumours(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    slides = read_slides(folder / "slides" / "slides.csv")
    assert all(slide.annotation is not None for slide in slides)  # of mimics, and of tumour where there is one
    with open_pyramid(slides[0].path) as pyramid:
        assert pyramid.told.mpp == pytest.approx(0.5)
    page = (folder / "cohort" / "tiling.html").read_text(encoding="utf-8")
    assert page.count("<figure") == len(slides)
    cohort = Cohort.open(folder / "cohort")
    assert set(cohort.patches.truth) == {0, 1}
    assert cohort.mimics is not None
    assert cohort.mimics.any()
    positive = cohort.labels()[np.unique(cohort.patches.slide[cohort.patches.truth == 1])]
    assert positive.all()


@pytest.mark.slow
def test_the_run_directory_is_as_listed(demo: tuple[Path, str]) -> None:
    text = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    listing = re.search(r"^    run/\n((?: {6,}.+\n)+)", text, re.MULTILINE)
    assert listing
    always = [line for line in listing.group(1).splitlines() if "only where" not in line]
    names = re.findall(r"(?<= )[\w/-]+\.\w+|mlartifacts/", "\n".join(always))
    assert len(names) >= 17
    run_folder = demo[0] / "run"
    assert [name for name in names if not any((run_folder / at / name).exists() for at in ("", "round-000"))] == []


@pytest.mark.slow
def test_the_picture_is_drawn_from_the_demo(demo: tuple[Path, str], tmp_path: Path) -> None:
    assert "wrote demo.png" in run(["python", str(ROOT / "docs" / "picture.py"), str(demo[0]), "demo.png"], tmp_path)
    with Image.open(tmp_path / "demo.png") as drawn, Image.open(ROOT / "docs" / "demo.png") as shown:
        assert drawn.size == shown.size


def test_the_test_command_is_what_ci_runs() -> None:
    assert "python -m pytest" in block("test command")
    assert "test command" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def write_some_of_colon(folder: Path) -> None:
    """Make a folder like that of the colon data with 24 of its 100 images."""
    (folder / "images").mkdir(parents=True)
    names = [f"img{number}" for number in range(1, 25)]
    for name in names:
        (folder / "images" / f"{name}.png").symlink_to(SHARED / "colon" / "images" / f"{name}.png")
    header, *rows = (SHARED / "colon" / "nuclei.csv").read_text(encoding="utf-8").splitlines()
    some = [row for row in rows if row.partition(",")[0] in names]
    (folder / "nuclei.csv").write_text("\n".join([header, *some]) + "\n", encoding="utf-8")


@needs_colon
@pytest.mark.slow
def test_the_colon_commands_run(tmp_path: Path) -> None:
    lines = block("colon commands", "docs/results.md").replace("../shared/data/colon", str(tmp_path / "some")).splitlines()
    commands = [shlex.split(line.replace("$preset", "hnm")) for line in lines if not line.startswith(("for", "done"))]
    assert [command[1] for command in commands[1:]] == ["tile", "pretrain", "train", "evaluate"]
    write_some_of_colon(tmp_path / "some")
    for command in commands:
        more = {"pretrain": SHORT, "train": SHORT, "evaluate": ("--no-report",)}.get(command[1], ())
        run([*command, *more], tmp_path)
    assert (tmp_path / "colon" / "hnm" / "metrics.json").is_file()
