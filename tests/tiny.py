"""A study small enough to train in a second: settings for the drawn cohort of tests/conftest.py, and sessions on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hnm.config import Config, load_config
from hnm.engine.ranks import World
from hnm.run.journal import Journal
from hnm.run.session import Session
from hnm.run.study import open_study
from shards.cohort.cohort import Cohort
from shards.reading.reader import PatchReader

TILE = ["tile.patch_px=16", "tile.points_file=points.csv", "tile.positive_class=tumour"]
TINY = [
    *("device=cpu", "tracking.enabled=false"),
    *("encoder.stem=small", "encoder.width=0.125", "encoder.projection_dim=16"),
    *("pretrain.epochs=1", "pretrain.batch_size=24"),
    *("aggregate.epochs=4", "aggregate.lr=1e-3", "aggregate.validate_every=2", "aggregate.pairs_per_step=2"),
    "aggregate.num_members=2",
    *("mining.neg_ratio=0.5", "mining.candidates_per_slide=0.25", "mining.gate_on_validation=false"),
    *("finetune.epochs_per_round=1", "finetune.warmup_epochs=1", "finetune.cosine_after_epoch=1"),
    *("finetune.batch_size=16", "finetune.self_paced_share=0.1"),
    *("rounds.num_rounds=2", "rounds.embed_batch_size=16"),
]


def tiny_config(*overrides: str) -> Config:
    """Return the resolved configuration of a run of a second: 4 steps of pretraining, 2 rounds of one epoch."""
    return load_config(None, "hnm", [*TINY, *overrides])


@contextmanager
def tiny_session(world: World, cohort: Path, config: Config, journal: Journal | None = None) -> Iterator[Session]:
    """Yield a session that reads the cohort's patches."""
    study = open_study(Cohort.open(cohort), config.data, config.seed)
    with PatchReader(study.cohort, config.reader, study.slide_groups) as reader:
        yield Session(study, reader, config.seed, world, journal or Journal(None, world), config.engine)


def results_of(run: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a run that must not depend on the clock: all but logs, times and MLflow's."""
    clocked = {"state.json", "events.jsonl", "environment.json", "run_id.txt"}
    clocked |= {"mlflow.db", "mlflow_run_id.txt", "mlflow_sent.json"}
    files = (path for path in sorted(run.rglob("*")) if path.is_file() and path.name not in clocked)
    names = {str(path.relative_to(run)): path for path in files}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(("log/", "mlartifacts/", "slurm/"))}
