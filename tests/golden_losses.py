"""The loss of each of the first 20 steps of each training, on one thread of a CPU in fp32, with a fixed seed.

    python -m tests.golden_losses      # after a change of numerics that is meant: writes tests/golden/losses.json anew

The file holds, by training, the losses (hex floats, so that no digit is lost) and the machine that computed them: PyTorch
chooses kernels by the processor's instructions, and others round in another way. See tests/test_golden_losses.py.
"""

import json
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from hnm.aggregator.aggregate import AggregateConfig, train_aggregator
from hnm.aggregator.bags import Bags
from hnm.config import load_config
from hnm.encoder.contrastive_model import fresh_model
from hnm.encoder.finetune import finetune
from hnm.encoder.simclr import pretrain
from hnm.engine.engine import Engine
from hnm.engine.ranks import single_world
from hnm.engine.step import Progress
from hnm.run.session import Session
from shards.drawn.synthetic import make_cohort_images
from shards.tiling.tile import tile_cohort
from tests.hnm.worlds import mine_and_share, session_with_features
from tests.paths import GOLDEN
from tests.tiny import TILE, tiny_config, tiny_session

FILE = GOLDEN / "losses.json"
NUM_STEPS = 20
CONFIG = ["pretrain.epochs=5", "finetune.epochs_per_round=3", "mining.neg_ratio=1.0"]


class EnoughSteps(Exception):  # noqa: N818
    """All losses that are wanted are there."""


@dataclass
class NotingKeeper:
    """A keeper that notes the loss of each step, and ends the training after 20."""

    losses: list[float] = field(default_factory=list)
    epoch: dict[str, tuple[float, int]] = field(default_factory=dict)

    def resume(self, engine: Engine, progress: Progress) -> None:
        """Every training begins at its beginning."""

    def step_taken(self, engine: Engine, progress: Progress) -> None:
        """Note what the step has added to its epoch's sum of losses: exact, for these are float32 numbers in a float64."""
        before = self.epoch if progress.step > 1 else {}
        self.epoch = dict(progress.losses)
        (kind,) = [kind for kind, sums in self.epoch.items() if sums != before.get(kind, (0.0, 0))]
        self.losses.append(self.epoch[kind][0] - before.get(kind, (0.0, 0))[0])
        if len(self.losses) == NUM_STEPS:
            raise EnoughSteps

    def stop_if_asked(self) -> None:
        """Nobody asks."""

    def phase_ended(self) -> None:
        """Nothing is kept."""


def machine() -> dict[str, str]:
    """Return what decides which kernels compute: the same on both sides, the losses must be the same to the bit."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    vendor = next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    vectors = sorted(flag for flag in flags if flag.startswith(("avx", "amx", "fma")))
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "architecture": f"{platform.machine()} {vendor}".strip(),
        "instructions": " ".join(vectors),
    }


def trajectories(cohort: Path, folder: Path) -> dict[str, list[float]]:
    """Return 20 losses of each training on the drawn cohort of tests/conftest.py; one thread."""
    config = tiny_config(*CONFIG)

    def pretraining(session: Session) -> None:
        pretrain(config.encoder, config.pretrain, folder / "encoder.safetensors", session)

    def finetuning(session: Session) -> None:
        mined = mine_and_share(session, folder / "mined")
        finetune(fresh_model(config.encoder, 1), mined, config.finetune, config.mining, 1, 2, session)

    def aggregating(session: Session) -> None:
        settings = AggregateConfig(epochs=NUM_STEPS, pairs_per_step=2, lr=1e-3)
        train_aggregator(Bags(folder / "features", session.world.device), settings, 0, session)

    with tiny_session(single_world(), cohort, config) as session:
        found = {"pretrain": noted(session, pretraining), "finetune": noted(session, finetuning)}
    return {**found, "aggregate": noted(session_with_features(single_world(), str(folder)), aggregating)}


def noted(session: Session, train: Callable[[Session], Any]) -> list[float]:
    """Return the losses of a training, which is ended after 20 steps."""
    keeper = NotingKeeper()
    try:
        train(replace(session, keeper=keeper))
    except EnoughSteps:
        return keeper.losses
    raise RuntimeError(f"a training ended after {len(keeper.losses)} steps, before {NUM_STEPS}")


def main() -> None:
    """Write the file."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slides = make_cohort_images(folder / "slides", 10, 4, 16, seed=0)
        tile_cohort(slides, folder / "cohort", load_config(overrides=TILE).tile)
        found = trajectories(folder / "cohort", folder)
    content: dict[str, Any] = {"machine": machine(), **{name: [x.hex() for x in losses] for name, losses in found.items()}}
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
