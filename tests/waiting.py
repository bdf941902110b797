"""Waiting for what a process of a test does, never for ever."""

import subprocess
import time
from pathlib import Path


def wait_for(path: Path, process: subprocess.Popen[str], timeout_s: float = 300) -> None:
    """Return once `path` is there; fail if the process ends before, or at the timeout."""
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
