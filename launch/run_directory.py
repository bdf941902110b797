"""The run directory's identity: which cohort, which configuration, which machine; written once, checked ever after."""

import json
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from hnm.config import Config, difference, dump_config, read_config
from launch.submissions import SUBFOLDER
from shards.cohort import Cohort
from shards.errors import InputError
from shards.files import whole_file, write_json

LISTED_PACKAGES = ("torch", "numpy", "scikit-learn", "simplejpeg", "pyarrow", "pydantic", "mlflow", "hnm")


def open_run(run: Path, cohort: Cohort, config: Config) -> None:
    """Create the run directory, or check that it belongs to this cohort and configuration. Call it on rank 0 only.

    Raises:
        InputError: the directory holds another run, or is a folder of something else.
    """
    if (run / "state.json").is_file():
        check_cohort(run, cohort)
        changed = difference(read_config(run / "config.yaml"), config)
        changed = [line for line in changed if not line.startswith(("device:", "reader.", "tracking.", "slurm."))]
        if changed:
            raise InputError(
                f"{run}: this run was started with other settings ({'; '.join(changed)}). Use another run directory, or "
                "the settings it was started with"
            )
        return
    if run.exists() and (not run.is_dir() or any(path.name != SUBFOLDER for path in run.iterdir())):
        raise InputError(f"{run}: exists and is no run directory of hnm. Choose another name or remove it")
    run.mkdir(parents=True, exist_ok=True)
    with whole_file(run / "config.yaml") as temporary:
        temporary.write_text(dump_config(config), encoding="utf-8")
    write_json(run / "environment.json", describe_environment())
    state = {"cohort": str(cohort.root.resolve()), "fingerprint": cohort.fingerprint, "phases": []}
    write_json(run / "state.json", state)


def read_run(run: Path) -> tuple[Config, Path]:
    """Return the configuration and the cohort's folder of an existing run.

    Raises:
        InputError: `run` is no run directory.
    """
    if not (run / "state.json").is_file():
        raise InputError(f"{run}: no run directory (state.json is missing). Make one with: hnm train COHORT {run}")
    state = json.loads((run / "state.json").read_text(encoding="utf-8"))
    return read_config(run / "config.yaml"), Path(state["cohort"])


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


def check_cohort(run: Path, cohort: Cohort) -> None:
    """Refuse a run of another cohort.

    Raises:
        InputError: naming both.
    """
    state = json.loads((run / "state.json").read_text(encoding="utf-8"))
    if state["fingerprint"] != cohort.fingerprint:
        raise InputError(
            f"{run / 'state.json'}: this run was made with the cohort {state['cohort']} (fingerprint "
            f"{state['fingerprint']}); {cohort.root} has {cohort.fingerprint}. Give that cohort, or another run directory"
        )
