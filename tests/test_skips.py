"""The rule of tests/skips.py, on sessions of one small file."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT


@pytest.mark.parametrize(
    ("reason", "options", "code"),
    [
        ("needs Chromium: apt-get install chromium", ["--skips-fail"], 1),
        ("needs Chromium: apt-get install chromium", ["--skips-fail", "-n", "1"], 1),
        ("needs Chromium: apt-get install chromium", [], 0),
        ("needs ../shared/data: the slides are not there", ["--skips-fail"], 0),
    ],
)
def test_a_skip_fails_the_session_unless_its_reason_is_accepted(
    reason: str, options: list[str], code: int, tmp_path: Path
) -> None:
    (tmp_path / "test_one.py").write_text(f"import pytest\n\ndef test_page() -> None:\n    pytest.skip({reason!r})\n")
    plugins = [*("-p", "tests.skips"), *("-p", "xdist"), *("-p", "no:cacheprovider")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, *options, "test_one.py"], cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "1 skipped" in done.stdout
    assert ("may not be: test_one.py::test_page: needs Chromium" in done.stdout) == bool(code)
