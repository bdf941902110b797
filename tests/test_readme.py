"""The README's commands are run, not believed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import SHARED_DATA, needs_colon

ROOT = Path(__file__).parents[1]
SHORT = (
    "pretrain.epochs=1", "aggregate.epochs=3", "rounds.num_rounds=1", "finetune.epochs_per_round=1",
    "finetune.warmup_epochs=0", "encoder.width=0.0625", "tracking.enabled=false",
)  # fmt: skip


def block(name: str) -> str:
    """Return the shell lines of the README between two marks."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n```bash\n(.*?)\n```\n<!-- end -->", text, re.DOTALL)
    assert found, f"README.md has no block {name!r}"
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


def test_the_demo_goes_all_the_way(tmp_path: Path) -> None:
    command = shlex.split(block("demo command").split("&&")[-1])
    assert command == ["hnm", "demo"]
    output = run(command, tmp_path)
    assert "slide AUC" in output
    assert "What to try next" in output
    assert (tmp_path / "hnm-demo" / "run" / "metrics.json").is_file()


def test_the_test_command_is_what_ci_runs() -> None:
    assert "python -m pytest" in block("test command")
    assert "test command" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@needs_colon
def test_the_colon_commands_run(tmp_path: Path) -> None:
    lines = block("colon commands").replace("../shared/data/colon", str(SHARED_DATA / "colon")).splitlines()
    commands = [shlex.split(line.replace("$preset", "hnm")) for line in lines if not line.startswith(("for", "done"))]
    assert [command[1] for command in commands[1:]] == ["tile", "pretrain", "train", "evaluate"]
    for command in commands:
        run(command + list(SHORT) if command[1] in ("pretrain", "train") else command, tmp_path)
    assert (tmp_path / "colon" / "hnm" / "metrics.json").is_file()


@pytest.mark.parametrize(
    "path", re.findall(r"^    ((?:hnm|shards|launch)/\w+\.py) ", (ROOT / "README.md").read_text(), re.M)
)
def test_files_to_read_exist(path: str) -> None:
    assert (ROOT / path).is_file()
