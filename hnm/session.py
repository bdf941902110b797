"""What every phase of a run is handed: the data, the ranks, how to train, and where to tell what happens."""

from dataclasses import dataclass, field

from hnm.journal import Journal
from hnm.study import Study
from hnm.training import Keeper, Progress
from launch.distributed import World
from launch.engine import Engine, EngineConfig
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
        engine: how modules are trained.
        keeper: keeps trainings at step boundaries; None keeps nothing.
    """

    study: Study
    reader: PatchReader
    seed: int
    world: World
    journal: Journal
    engine: EngineConfig = field(default_factory=EngineConfig)
    keeper: Keeper | None = None

    def resume(self, engine: Engine, progress: Progress) -> Progress:
        """Bring a training to where it was kept last, if it was; return its progress. Every rank must call it."""
        if self.keeper is not None:
            self.keeper.resume(engine, progress)
        return progress

    def stop_if_asked(self) -> None:
        """End the run if a rank was asked to stop, where there is nothing to keep. Every rank must call it."""
        if self.keeper is not None:
            self.keeper.stop_if_asked()
