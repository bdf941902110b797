"""The keeper: every phase stopped and gone on with, by real signals, damaged checkpoints and a full disk."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hnm.aggregator.aggregate import AggregateConfig, train_aggregator
from hnm.aggregator.aggregators import build_aggregator
from hnm.aggregator.bags import Bags
from hnm.encoder.contrastive_model import fresh_model
from hnm.encoder.finetune import finetune
from hnm.encoder.simclr import pretrain
from hnm.encoder.slide_loss import RoundSettings, finetune_on_slides
from hnm.engine.checkpoint import CheckpointConfig, check, digest, list_checkpoints
from hnm.engine.engine import Engine
from hnm.engine.ranks import TimeoutConfig, World, barrier, single_world
from hnm.engine.state import load_weights
from hnm.engine.step import Progress
from hnm.run.journal import Journal
from hnm.run.session import Session
from launch.process.keeper import RunKeeper, SaveError
from launch.process.preemption import Preempted, StopSignals
from shards.errors import InputError
from shards.seeding import seeded_torch
from tests import disks
from tests.hnm.worlds import mine_and_share, session_with_features
from tests.ranks import on_ranks
from tests.tiny import tiny_config, tiny_session

CONFIG = tiny_config("pretrain.epochs=2", "finetune.epochs_per_round=2", "finetune.augment.recipe=histology")
AGGREGATE = AggregateConfig(epochs=4, pairs_per_step=2, validate_every=2, select="validation")
# optimizer steps; in and at the end of an epoch. With DDP: the other engines are in tests/hnm/run/test_training.py
STOPS = {"pretrain": (2, 5), "finetune": (3, 8), "aggregate": (1, 6), "slide": (1, 3)}
SLIDE = tiny_config(
    *("finetune.objective=both", "finetune.slide.slides_per_step=4", "finetune.slide.patches_per_slide=4"),
    *("finetune.slide.ema=0.5", "finetune.epochs_per_round=2"),
)


class SignalledKeeper(RunKeeper):
    """A keeper whose rank 0, and only that, gets a real signal after some step."""

    signal_at = -1

    def step_taken(self, engine: Engine, progress: Progress) -> None:
        if self.world.is_main and progress.num_steps == self.signal_at:
            os.kill(os.getpid(), signal.SIGUSR2)
            while self.signals.requested is None:
                time.sleep(0.001)
        super().step_taken(engine, progress)


def keeper_in(run: Path, signals: StopSignals, world: World, **config: Any) -> SignalledKeeper:
    checkpoint = CheckpointConfig(**{"every_minutes": 0, **config})
    identity = {"cohort": "tiny", "seed": 0}
    journal = Journal(run, world)
    return SignalledKeeper(
        run, lambda phase, round_: run / phase, identity, checkpoint, TimeoutConfig(), signals, journal
    )


def train_phase(phase: str, keeper: RunKeeper | None, world: World, cohort: str, folder: Path) -> Any:
    """Run one phase and return the weights that it made."""
    if phase == "aggregate":
        session: Session = session_with_features(world, str(folder / "bags"))
        set_up(session, keeper)
        return train_aggregator(Bags(folder / "bags" / "features", world.device), AGGREGATE, 1, session).state_dict()
    with tiny_session(world, Path(cohort), CONFIG) as session:
        mined = mine_and_share(session, folder / "mined")
        set_up(session, keeper)
        if phase == "pretrain":
            pretrain(CONFIG.encoder, CONFIG.pretrain, folder / "pretrained.safetensors", session)
            return load_weights(folder / "pretrained.safetensors")[0]
        model = fresh_model(CONFIG.encoder, seed=1)
        if phase == "slide":
            settings = RoundSettings(SLIDE.finetune, SLIDE.mining, SLIDE.aggregate, num_rounds=2)
            with seeded_torch(7):
                aggregator = build_aggregator("dsmil", model.encoder.feature_dim, 2)
            return finetune_on_slides(model, aggregator, mined, settings, 1, session)[0]
        return finetune(model, mined, CONFIG.finetune, CONFIG.mining, 1, 2, session)[0]


def set_up(session: Session, keeper: RunKeeper | None) -> None:
    object.__setattr__(session, "keeper", keeper)


def same(ours: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == others.keys() and all(torch.equal(ours[name], others[name]) for name in ours)


def stop_twice(world: World, cohort: str, folder: str) -> dict[str, Any]:
    """Return, by phase, whether two stops changed nothing, and the weights."""
    results: dict[str, Any] = {}
    for phase, stops in STOPS.items():
        place = Path(folder) / phase
        name = "finetune" if phase == "slide" else phase
        expected = train_phase(phase, None, world, cohort, place)
        results[f"{phase} weights"] = {key: tensor.clone() for key, tensor in expected.items()}
        for at in (*stops, -1):
            with StopSignals() as signals:
                keeper = keeper_in(place / "run", signals, world)
                keeper.signal_at = at
                if at < 0:
                    results[phase] = same(train_phase(phase, keeper, world, cohort, place), expected)
                    continue
                with pytest.raises(Preempted, match=f"stopped and saved: {name} of round ., step {at}"):
                    train_phase(phase, keeper, world, cohort, place)
                barrier(world)
                assert list_checkpoints(place / "run" / name)[0].name == f"step-{at:06d}"
    return results


def test_every_phase_stopped_twice_by_a_signal_to_rank_0_is_undisturbed(tiny_cohort: Path, tmp_path: Path) -> None:
    two = on_ranks(2, stop_twice, str(tiny_cohort), str(tmp_path))
    for result in two:
        assert [result[phase] for phase in STOPS] == [True] * len(STOPS)
    # what two ranks have saved, one goes on with: the same global batches, other sums
    for phase, (_, last) in STOPS.items():
        if phase in ("finetune", "slide"):
            continue  # fine-tuning at 16 px magnifies rounding tenfold a step: see test_finetune.py
        with StopSignals() as signals:
            keeper = keeper_in(tmp_path / phase / "run", signals, single_world())
            weights = train_phase(phase, keeper, single_world(), str(tiny_cohort), tmp_path / phase)
        differences = [(weights[name] - tensor).abs().flatten() for name, tensor in two[0][f"{phase} weights"].items()]
        assert float(torch.cat(differences).mean()) < 1e-4  # steps of up to 1e-3; gradients near 0 go by rounding
        events = [json.loads(line) for line in (tmp_path / phase / "run" / "events.jsonl").read_text().splitlines()]
        assert [event["step"] for event in events if event["event"] == "resumed"] == [*STOPS[phase], last]


def pretrained(keeper: RunKeeper | None, cohort: Path, folder: Path) -> Any:
    return train_phase("pretrain", keeper, single_world(), str(cohort), folder)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, tiny_cohort: Path) -> Any:
    """The weights of an undisturbed pretraining of 8 steps on one rank."""
    return pretrained(None, tiny_cohort, tmp_path_factory.mktemp("undisturbed"))


class Lost(Exception):  # noqa: N818
    """The machine is gone."""


class LosingKeeper(RunKeeper):
    """A keeper whose process is lost after step 7."""

    def step_taken(self, engine: Engine, progress: Progress) -> None:
        super().step_taken(engine, progress)
        if progress.num_steps == 7:
            raise Lost


def losing(run: Path, **config: Any) -> LosingKeeper:
    keeper = keeper_in(run, StopSignals(), single_world(), **config)
    keeper.__class__ = LosingKeeper  # type: ignore[assignment]
    return keeper  # type: ignore[return-value]


def test_saved_by_steps_and_by_time_and_damage_takes_the_one_before(
    expected: Any, tiny_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Lost):
        pretrained(losing(run, every_steps=2, keep=2), tiny_cohort, tmp_path)
    names = [path.name for path in list_checkpoints(run / "pretrain")]
    assert names == ["step-000006", "step-000004"]
    (run / "pretrain" / "step-000006" / "weights.safetensors").write_bytes(b"half")
    again = keeper_in(run, StopSignals(), single_world(), every_minutes=1e-9, keep=1)
    assert same(pretrained(again, tiny_cohort, tmp_path), expected)
    assert "step-000006: weights.safetensors has 4 bytes instead of" in " ".join(capsys.readouterr().out.split())
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "resumed"] == [4]
    assert sum(event["event"] == "checkpoint_refused" for event in events) == 1
    assert [event["step"] for event in events if event["event"] == "checkpoint"] == [2, 4, 6, 5, 6, 7, 8]


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "progress.json"])
def test_a_pickle_bomb_in_a_checkpoint_with_the_right_checksums_does_not_go_off(
    tiny_cohort: Path, tmp_path: Path, name: str
) -> None:
    run, target = tmp_path / "run", tmp_path / "boom"
    with pytest.raises(Lost):
        pretrained(losing(run, every_steps=7, keep=1), tiny_cohort, tmp_path)
    (folder,) = list_checkpoints(run / "pretrain")
    torch.save({"state": Bomb(target)}, folder / name)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": (folder / name).stat().st_size, "sha256": digest(folder / name)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=name):
        pretrained(keeper_in(run, StopSignals(), single_world()), tiny_cohort, tmp_path)
    assert not target.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 6 MB, for two checkpoints of 2.3 MB."""
    with disks.small_disk(tmp_path / "disk", "6m") as disk:
        yield disk


def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(
    expected: Any, tiny_cohort: Path, tmp_path: Path, small_disk: Path
) -> None:
    run = small_disk / "run"
    keeper = keeper_in(run, StopSignals(), single_world(), every_steps=1, keep=9)
    with pytest.raises(SaveError) as failure:
        pretrained(keeper, tiny_cohort, tmp_path)
    message = str(failure.value)
    whole = list_checkpoints(run / "pretrain")
    assert "cannot save a checkpoint (No space left on device)" in message
    assert f"The last whole checkpoint is {whole[0]}" in message
    assert "make room" in message
    assert {path.name[:5] for path in (run / "pretrain").iterdir()} == {"step-"}  # nothing half is left
    check(whole[0], {"cohort": "tiny", "seed": 0, "phase": "pretrain", "round": 0})
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    assert same(pretrained(keeper_in(run, StopSignals(), single_world()), tiny_cohort, tmp_path), expected)
