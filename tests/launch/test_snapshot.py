"""The copy of the code that jobs run."""

import subprocess
import sys
from pathlib import Path

from launch.snapshot import commit_of_code, read_code

ROOT = Path(__file__).parents[2]


def test_a_copy_is_the_whole_program_and_is_made_once(tmp_path: Path) -> None:
    code = read_code()
    folder = code.write(tmp_path)
    assert folder == tmp_path / code.name
    assert code.write(tmp_path) == folder
    assert [path.name for path in tmp_path.iterdir()] == [code.name]
    done = subprocess.run(
        [sys.executable, "-P", "-B", "-c", "import hnm, launch, shards; print(hnm.__file__, launch.__file__, shards.__file__)"],
        env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(folder / name / "__init__.py") for name in ("hnm", "launch", "shards")]
    copied = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "launch/job.py",
        "shards/reader.py",
        "hnm/configs/camelyon16.yaml",
        "hnm/configs/presets/hnm.yaml",
    } <= copied
    assert not any("__pycache__" in name for name in copied)
    assert (folder / "launch" / "job.py").read_bytes() == (ROOT / "launch" / "job.py").read_bytes()


def test_the_commit_says_whether_files_differ(tmp_path: Path) -> None:
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "job.py").write_text("print()\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert commit_of_code(tmp_path) == head
    (tmp_path / "notes.txt").write_text("not code\n")
    assert commit_of_code(tmp_path) == head
    (tmp_path / "launch" / "job.py").write_text("print(1)\n")
    assert commit_of_code(tmp_path) == f"{head}+changes"
    assert commit_of_code(tmp_path / "launch") != head  # a folder inside of somebody's own repository
