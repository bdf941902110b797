"""One slide of many patches, all others of one or two: ranks take as many steps, and do what one rank does."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hnm.config import load_config
from hnm.report.record import read_events
from shards.cohort.cohort import Cohort
from shards.drawn.synthetic import make_cohort_images
from shards.tiling.tile import tile_cohort
from tests.hnm.worlds import embed_and_finetune
from tests.ranks import on_ranks
from tests.tiny import TILE

LARGE = 64  # patches; all other slides together have fewer


@pytest.fixture(scope="module")
def uneven_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 drawn slides: the first negative training slide has 64 patches, the others have one or two."""
    folder = tmp_path_factory.mktemp("uneven")
    table = make_cohort_images(folder / "slides", 20, 4, 16, seed=0)
    with open(table, encoding="utf-8") as file:
        large = next(row["slide_id"] for row in csv.DictReader(file) if (row["split"], row["label"]) == ("train", "0"))
    points = folder / "slides" / "points.csv"
    head, *lines = points.read_text(encoding="utf-8").splitlines()
    kept = [f"{large},{x},{y},normal" for x in range(8, 56, 6) for y in range(8, 56, 6)]  # they overlap
    for number in range(20):
        own = [line for line in lines if line.startswith(f"slide-{number:03d}") and not line.startswith(large)]
        kept += sorted(own, key=lambda line: not line.endswith("tumour"))[: 1 + number % 2]
    points.write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")
    tile_cohort(table, folder / "cohort", load_config(overrides=TILE).tile)
    return folder / "cohort"


def test_two_ranks_end_together_with_what_one_rank_gives(uneven_cohort: Path, tmp_path: Path) -> None:
    *others, largest = sorted(Cohort.open(uneven_cohort).patches_per_slide.tolist())
    assert (min(others), max(others), largest) == (1, 2, LARGE)
    assert sum(others) < LARGE
    results: dict[int, list[dict[str, Any]]] = {}
    features: dict[int, np.ndarray] = {}
    losses: dict[int, list[tuple[int, float]]] = {}
    for size in (1, 2):
        folder = tmp_path / f"ranks-{size}"
        results[size] = on_ranks(size, embed_and_finetune, str(uneven_cohort), str(folder))
        features[size] = np.concatenate([np.load(path) for path in sorted(folder.glob("features/rows-*.npy"))])
        points = [event for event in read_events(folder / "events.jsonl") if event["event"] == "step"]
        losses[size] = [
            (point["step"], loss) for point in points for name, loss in point.items() if name.endswith("_loss")
        ]
    (alone,) = results[1]
    assert alone["num_steps"] > 4
    assert [result["num_steps"] for result in results[2]] == [alone["num_steps"]] * 2
    first, second = (result["num_read"] for result in results[2])
    assert first + second == alone["num_read"]
    assert min(first, second) > 0.4 * alone["num_read"]  # patches are dealt out, not slides
    np.testing.assert_array_equal(features[2], features[1])
    assert [step for step, _ in losses[2]] == list(range(1, alone["num_steps"] + 1))  # told once, by rank 0
    np.testing.assert_allclose(losses[2], losses[1], rtol=1e-9)
    for result in results[2]:
        for name, tensor in alone["weights"].items():
            # float64: see test_finetune.py
            torch.testing.assert_close(result["weights"][name], tensor, atol=1e-6, rtol=0)
