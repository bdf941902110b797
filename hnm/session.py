"""What every phase of a run is handed: the data, the ranks, and where to tell what happens."""

from dataclasses import dataclass

from hnm.journal import Journal
from hnm.study import Study
from launch.distributed import World
from shards.reader import PatchReader


@dataclass(frozen=True)
class Session:
    """One process's part in one run.

    Attributes:
        study: the cohort and the parts its slides play.
        reader: reads patches by id.
        seed: the run's seed; generators are derived from it by purpose.
        world: who this rank is.
        journal: progress, metrics, log.
    """

    study: Study
    reader: PatchReader
    seed: int
    world: World
    journal: Journal
