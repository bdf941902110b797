"""Progress, and a training with ZeRO that is left at step boundaries and gone on with: the same weights to the bit.

With DDP, and by real signals: tests/launch/process/test_keeper.py.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hnm.aggregator.aggregate import AggregateConfig, train_aggregator
from hnm.aggregator.bags import Bags
from hnm.config import Config
from hnm.encoder.contrastive_model import fresh_model
from hnm.encoder.finetune import finetune
from hnm.encoder.parts import choose_parts
from hnm.encoder.simclr import pretrain
from hnm.engine.engine import Engine
from hnm.engine.ranks import World, barrier, single_world
from hnm.engine.state import load_weights
from hnm.engine.step import Progress
from hnm.mining.mining import Mined
from tests.hnm.worlds import mine_and_share, session_with_features
from tests.ranks import on_new_process, on_ranks
from tests.tiny import tiny_config, tiny_session

Weights = dict[str, torch.Tensor]
# Below its threshold ZeRO 3 keeps parameters whole: here all are to be cut up.
ZERO3 = "engine.deepspeed={zero_optimization: {stage: 3, stage3_param_persistence_threshold: 0}}"
ENGINES = {
    "zero1": ["engine.deepspeed=zero1"],
    "zero2": ["engine.deepspeed=zero2"],
    "zero3": [ZERO3],
}
# two stops: in the middle of an epoch, and at the end of one
STOPS = {"pretrain": (1, 2), "finetune": (5, 8), "aggregate": (4, 6)}
PHASES = {"zero1": ("pretrain", "aggregate"), "zero2": ("finetune",), "zero3": ("finetune",)}


class StoppedError(Exception):
    """Raised at the step boundary where a test leaves a training."""


class StopAt:
    """A keeper that ends the training after each of `stops` steps, and brings it back there the next time."""

    def __init__(self, stops: tuple[int, ...], folder: Path, world: World) -> None:
        self.stops, self.folder, self.world = list(stops), folder, world
        self.kept: dict[str, Any] = {}

    def resume(self, engine: Engine, progress: Progress) -> None:
        if self.kept:
            engine.load(self.folder)
            vars(progress).update(self.kept)

    def step_taken(self, engine: Engine, progress: Progress) -> None:
        if self.stops and progress.num_steps == self.stops[0]:
            self.stops.pop(0)
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


def train_phase(phase: str, keeper: StopAt | None, config: Config, world: World, cohort: str, folder: Path) -> Weights:
    """Run one phase and return what it made."""
    if phase == "aggregate":
        session = replace(session_with_features(world, str(folder)), engine=config.engine, keeper=keeper)
        settings = AggregateConfig(epochs=4, pairs_per_step=2, validate_every=2, select="validation")
        return train_aggregator(Bags(session.features, world.device), settings, 1, session).state_dict()
    with tiny_session(world, Path(cohort), config) as plain:
        session_, out = replace(plain, keeper=keeper), folder / "encoder.safetensors"
        if phase == "pretrain":
            assert pretrain(config.encoder, config.pretrain, out, session_) == 4
            return load_weights(out)[0]
        mined: Mined = mine_and_share(plain, folder / "mined")
        model = fresh_model(config.encoder, seed=1)
        choose_parts(model, config.finetune, "finetune", seed=1)
        weights, num_steps = finetune(model, mined, config.finetune, config.mining, 1, 2, session_)
        assert num_steps == 16
        return weights


def stop_twice(world: World, cohort: str, folder: str, engines: list[str]) -> dict[str, bool]:
    """Return, by engine and phase, whether two stops changed nothing."""
    same = {}
    for name in engines:
        settings = ["pretrain.epochs=2", "pretrain.batch_size=48", "finetune.augment.recipe=histology"]
        config = tiny_config(*settings, "finetune.epochs_per_round=2", *ENGINES[name])
        for phase in PHASES[name]:
            stops, place = STOPS[phase], Path(folder) / name / phase
            keeper = StopAt(stops, place / "kept", world)

            def train(
                keeper: StopAt | None, phase: str = phase, place: Path = place, config: Config = config
            ) -> Weights:
                return train_phase(phase, keeper, config, world, cohort, place)

            expected, again = train(None), train_with_stops(train, keeper, len(stops))
            same[f"{name}: {phase}"] = all(torch.equal(again[key], expected[key]) for key in expected)
    return same


def train_with_stops(train: Callable[[StopAt], Weights], keeper: StopAt, num_stops: int) -> Weights:
    for _ in range(num_stops):
        with pytest.raises(StoppedError):
            train(keeper)
    return train(keeper)


def check(results: list[dict[str, bool]], engines: list[str]) -> None:
    for result in results:
        assert list(result) == [f"{name}: {phase}" for name in engines for phase in PHASES[name]]
        assert all(result.values()), result


@pytest.mark.slow
def test_a_training_stopped_twice_ends_with_the_same_bits(tiny_cohort: Path, tmp_path: Path) -> None:
    check(on_ranks(2, stop_twice, str(tiny_cohort), str(tmp_path), list(ENGINES)), list(ENGINES))


def test_so_do_adapters_with_dropout_rates_by_depth_and_a_warm_up(tiny_cohort: Path, tmp_path: Path) -> None:
    network = ["encoder.name=timm/test_vit", "encoder.side_px=32", "finetune.epochs_per_round=2"]
    lora = ["train=lora", "lora.rank=2", "lora.dropout=0.2", "optimizer=adamw", "lr=1e-3", "layer_decay=0.5"]
    lora += ["rate_warmup_steps=7"]
    config, world = tiny_config(*network, *(f"finetune.{setting}" for setting in lora)), single_world()

    def train(keeper: StopAt | None) -> Weights:
        return train_phase("finetune", keeper, config, world, str(tiny_cohort), tmp_path)

    expected, again = train(None), train_with_stops(train, StopAt(STOPS["finetune"], tmp_path / "kept", world), 2)
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())
    assert all(tensor.abs().max() > 0 for name, tensor in expected.items() if "lora_B" in name)


def test_so_it_does_on_one_rank(tiny_cohort: Path, tmp_path: Path) -> None:
    # a process joins DeepSpeed once: not this one
    check(on_new_process(stop_twice, str(tiny_cohort), str(tmp_path), ["zero1"]), ["zero1"])
