"""Two kills of a training on 2 ranks. Fifty on a larger cohort: python -m benchmarks.survival --kills 50."""

from pathlib import Path

import pytest

from benchmarks.survival import survive
from tests.tiny import TINY

pytestmark = pytest.mark.slow

OPTIONS = ["--preset", "hnm", *TINY, "aggregate.epochs=20", "checkpoint.every_steps=3"]


def test_killed_twice_is_undisturbed(tiny_cohort: Path, tmp_path: Path) -> None:
    figures = survive(tiny_cohort, tmp_path, OPTIONS, num_kills=2)
    assert figures["kills"] == 2
    assert figures["files_that_differ"] == []
    assert figures["identical"]
    names = {path.name for path in (tmp_path / "killed-0").rglob("*")}
    assert {"encoder.safetensors", "aggregator.safetensors", "scores.npy", "metrics.json", "predictions.parquet"} <= names
    assert not [name for name in names if name.endswith(".tmp") or name.startswith("step-")]
