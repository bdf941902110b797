"""Small worlds for tests of the algorithm: a cohort's tables and feature files without any images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from hnm.bags import file_of_rank, write_index
from hnm.journal import Journal
from hnm.session import Session
from hnm.study import DataConfig, Study, open_study
from launch.distributed import World
from shards.cohort import Cohort, Patches
from shards.files import write_array

NUM_SLIDES, DIM = 18, 32


def tables_only_cohort(seed: int = 0) -> Cohort:
    """Return a cohort of 18 slides of 3 to 19 patches; odd slides are positive, a quarter of their patches truly so."""
    random = np.random.default_rng(seed)
    sizes = random.integers(3, 20, NUM_SLIDES)
    slide = np.repeat(np.arange(NUM_SLIDES, dtype=np.int32), sizes)
    truth = ((slide % 2 == 1) & (random.random(len(slide)) < 0.25)).astype(np.int8)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    truth[starts[1::2]] = 1  # every positive slide has at least one
    zeros = np.zeros(len(slide), np.int32)
    patches = Patches(slide, zeros, zeros, zeros, zeros.astype(np.int64), zeros, truth)
    splits = ["train"] * 10 + ["validation"] * 4 + ["test"] * 4
    slides = pa.table(
        {
            "slide_id": [f"slide-{s}" for s in range(NUM_SLIDES)],
            "patient_id": [f"patient-{s}" for s in range(NUM_SLIDES)],
            "label": pa.array([s % 2 for s in range(NUM_SLIDES)], pa.int8()),
            "split": splits,
        }
    )
    return Cohort(Path("cohort"), {}, slides, patches)


def tables_only_study(config: DataConfig | None = None) -> Study:
    """Return the study of `tables_only_cohort`."""
    return open_study(tables_only_cohort(), config or DataConfig(), 0)


@dataclass(frozen=True)
class SessionWithFeatures(Session):
    """A session whose train and validation slides have feature files, in three parts."""

    features: Path


def session_with_features(world: World, folder: str) -> SessionWithFeatures:
    """Return a session; features of truly positive patches are shifted, so that they can be learned. Files are made once."""
    study = tables_only_study()
    features = Path(folder) / "features"
    if not (features / "index.json").is_file():
        ids = study.patches_of(study.embedded_slides)
        rows = np.random.default_rng(1).standard_normal((len(ids), DIM)).astype(np.float16)
        rows[study.cohort.patches.truth[ids] == 1, :4] += 3
        for part, block in enumerate(np.array_split(rows, 3)):
            write_array(features / file_of_rank(part), block)
        sizes = np.diff(study.cohort.patch_bounds)[study.embedded_slides]
        write_index(features, study.embedded_slides, sizes, 3)
    reader = None  # nothing here reads images
    return SessionWithFeatures(study, reader, 0, world, Journal(None, world), features)  # type: ignore[arg-type]
