"""Which commit is running: of a checkout with and without changes, of a copy, of neither."""

import subprocess
from pathlib import Path

from hnm.installed import COMMIT_FILE, commit_of_code


def test_the_commit_says_whether_files_differ(tmp_path: Path) -> None:
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "job.py").write_text("print()\n")
    assert commit_of_code(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert commit_of_code(tmp_path) == head
    (tmp_path / "notes.txt").write_text("not code\n")
    assert commit_of_code(tmp_path) == head
    (tmp_path / "launch" / "job.py").write_text("print(1)\n")
    assert commit_of_code(tmp_path) == f"{head}+changes"
    assert commit_of_code(tmp_path / "launch") is None  # a folder inside of somebody's own repository
    (tmp_path / "launch" / COMMIT_FILE).write_text("1f0a\n")  # a copy there
    assert commit_of_code(tmp_path / "launch") == "1f0a"
