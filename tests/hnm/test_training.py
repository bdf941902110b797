"""Progress, and a training that is left at any step boundary and gone on with: the same weights to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hnm.aggregate import AggregateConfig, train_aggregator
from hnm.bags import Bags
from hnm.config import Config
from hnm.contrastive_model import fresh_model
from hnm.finetune import finetune
from hnm.simclr import pretrain
from hnm.training import Progress
from hnm.weights import load_weights
from launch.distributed import World, barrier
from launch.engine import Engine
from tests.hnm.worlds import mine_and_share, session_with_features
from tests.ranks import on_ranks
from tests.tiny import tiny_config, tiny_session


class StoppedError(Exception):
    """Raised at the step boundary where a test leaves a training."""


class StopAfter:
    """A keeper that ends the training after `num_steps` steps, and brings it back there the next time."""

    def __init__(self, num_steps: int, folder: Path, world: World) -> None:
        self.num_steps, self.folder, self.world = num_steps, folder, world
        self.kept: dict[str, Any] = {}

    def resume(self, engine: Engine, progress: Progress) -> None:
        if self.kept:
            engine.load(self.folder)
            vars(progress).update(self.kept)

    def step_taken(self, engine: Engine, progress: Progress) -> None:
        if progress.num_steps == self.num_steps and not self.kept:
            engine.save(self.folder)
            barrier(self.world)
            self.kept = dict(vars(progress))
            raise StoppedError


def test_progress_counts_steps_and_averages_the_losses_of_an_epoch() -> None:
    progress = Progress("finetune", round=1, epoch=4)
    for kind, loss in (("negative", 1.0), ("positive", 5.0), ("negative", 2.0)):
        progress.count_step(kind, loss)
    assert (progress.step, progress.num_steps) == (3, 3)
    assert progress.end_epoch() == {"negative": 1.5, "positive": 5.0}
    assert progress == Progress("finetune", round=1, epoch=5, step=0, num_steps=3)


def weights_of(phase: str, keeper: StopAfter | None, config: Config, world: World, cohort: str, folder: Path) -> Any:
    """Run one phase and return what it made."""
    if phase == "aggregate":
        session = session_with_features(world, str(folder / "bags"))
        object.__setattr__(session, "keeper", keeper)
        settings = AggregateConfig(epochs=4, pairs_per_step=2, validate_every=2, select="validation")
        return train_aggregator(Bags(session.features, world.device), settings, 1, session).state_dict()
    with tiny_session(world, Path(cohort), config) as session:
        mined = mine_and_share(session, folder / "mined")
        object.__setattr__(session, "keeper", keeper)
        if phase == "pretrain":
            pretrain(config.encoder, config.pretrain, folder / "encoder.safetensors", session)
            return load_weights(folder / "encoder.safetensors")[0]
        model = fresh_model(config.encoder, seed=1)
        assert finetune(model, mined, config.finetune, config.mining, 1, 2, session) == 16
        return model.state_dict()


def stop_and_go_on(world: World, cohort: str, folder: str) -> dict[str, bool]:
    """Return, by phase and step, whether a stop there changed nothing."""
    config = tiny_config("pretrain.epochs=2", "finetune.epochs_per_round=2", "finetune.augment.recipe=histology")
    same = {}
    for phase, steps in {"pretrain": (3, 4), "finetune": (5, 8), "aggregate": (4, 6, 12)}.items():
        place = Path(folder) / phase
        expected = weights_of(phase, None, config, world, cohort, place)
        for num_steps in steps:  # in the middle of an epoch, and at the end of one
            keeper = StopAfter(num_steps, place / str(num_steps), world)
            with pytest.raises(StoppedError):
                weights_of(phase, keeper, config, world, cohort, place)
            again = weights_of(phase, keeper, config, world, cohort, place)
            same[f"{phase} {num_steps}"] = all(torch.equal(again[name], expected[name]) for name in expected)
    return same


@pytest.mark.parametrize("size", [1, 2])
def test_a_training_left_at_a_step_boundary_goes_on_to_the_same_bits(
    size: int, tiny_cohort: Path, tmp_path: Path
) -> None:
    for result in on_ranks(size, stop_and_go_on, str(tiny_cohort), str(tmp_path)):
        assert len(result) == 7
        assert all(result.values()), result
