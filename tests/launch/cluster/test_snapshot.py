"""The copy of the code that jobs run."""

import subprocess
import sys
from pathlib import Path

from hnm.installed import commit_of_code
from launch.cluster.snapshot import read_code
from tests.paths import ROOT


def test_a_copy_is_the_whole_program_and_is_made_once(tmp_path: Path) -> None:
    code = read_code()
    folder = code.write(tmp_path)
    assert folder == tmp_path / code.name
    assert code.write(tmp_path) == folder
    assert [path.name for path in tmp_path.iterdir()] == [code.name]
    done = subprocess.run(
        [sys.executable, "-P", "-B", "-c",
         "import hnm, hnm.installed, launch, shards; "
         "print(hnm.__file__, launch.__file__, shards.__file__, hnm.installed.commit_of_code())"],
        env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    *packages, commit = done.stdout.split()
    assert packages == [str(folder / name / "__init__.py") for name in ("hnm", "launch", "shards")]
    assert commit == str(commit_of_code())  # the jobs name it in MLflow, where there is no checkout
    copied = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "launch/cluster/job.py",
        "shards/reading/reader.py",
        "hnm/configs/camelyon16.yaml",
        "hnm/configs/presets/hnm.yaml",
    } <= copied
    ours = {path for package in ("hnm", "launch", "shards") for path in (ROOT / package).rglob("*") if path.is_file()}
    assert {str(path.relative_to(ROOT)) for path in ours if path.suffix != ".pyc"} <= copied  # the pages' templates, too
    assert not any("__pycache__" in name for name in copied)
    assert (folder / "launch" / "cluster" / "job.py").read_bytes() == (ROOT / "launch" / "cluster" / "job.py").read_bytes()
