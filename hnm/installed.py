"""Which commit of hnm is running, of a checkout or of the copy that a submitted job runs; on what; and its packaged files."""

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import hnm

COMMIT_FILE = "COMMIT"  # beside the packages of a copy, see launch/cluster/snapshot.py
LISTED_PACKAGES = ("torch", "numpy", "scikit-learn", "simplejpeg", "pyarrow", "pydantic", "mlflow", "hnm")
PACKAGES = ("hnm", "launch", "shards", "configs")


def commit_of_code(root: Path | None = None) -> str | None:
    """Return the git commit of the code, "+changes" if its files differ from that; None: neither a checkout nor a copy of one.

    Args:
        root: the folder that holds the packages; None: of the running code.
    """
    root = (root or Path(hnm.__file__).parents[1]).resolve()
    if (root / COMMIT_FILE).is_file():
        return (root / COMMIT_FILE).read_text(encoding="utf-8").strip() or None
    found = _git(root, "rev-parse", "--show-toplevel", "HEAD")
    if found is None:
        return None
    top, commit = found.split("\n")
    if Path(top) != root:  # installed below somebody's own checkout, whose commit is not ours
        return None
    return commit + ("+changes" if _git(root, "status", "--porcelain", "--", *PACKAGES) else "")


def _git(root: Path, *arguments: str) -> str | None:
    """Return what git says, None if there is no git, no checkout, or no answer within 10 s."""
    # nothing else of our environment: in a git hook it names another repository
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True, text=True, timeout=10, check=True, env=environment,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def config_folder() -> Path:
    """Return the folder of the packaged YAML files: inside the installed package, or beside it in a checkout."""
    package = Path(hnm.__file__).parent
    packaged = package / "configs"
    return packaged if packaged.is_dir() else package.parent / "configs"


def describe_environment() -> dict[str, Any]:
    """Return versions, platform and time; no environment variables, which may hold secrets."""
    versions = {}
    for package in LISTED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "host": platform.node(),
        "packages": versions,
    }
