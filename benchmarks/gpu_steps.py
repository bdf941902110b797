"""One step of each phase on a drawn cohort, on any device, and how far two of them lie apart.

    pretrain_step, finetune_step, aggregate_step ──▶ engine, Computed ──▶ loss, outputs, gradients, weights after the step
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hnm.aggregator import aggregate
from hnm.aggregator.aggregators import build_aggregator
from hnm.aggregator.bags import Bags
from hnm.aggregator.feed import Feed
from hnm.encoder import finetune, simclr
from hnm.encoder.contrastive_model import fresh_model, start_training
from hnm.encoder.resnet import EncoderConfig
from hnm.engine.engine import Engine, EngineConfig
from hnm.engine.engines import DDPEngine, wrap
from hnm.engine.ranks import World
from hnm.engine.step import Computed, take_step
from hnm.mining.mining import Mined, MiningConfig, choose, label
from hnm.run.journal import Journal
from hnm.run.session import Session
from hnm.run.study import DataConfig, open_study
from shards.cohort.cohort import Cohort
from shards.drawn.synthetic import make_cohort_images
from shards.reading.plan import ids_of_rank, plan_epoch
from shards.reading.reader import PatchReader, ReaderConfig
from shards.seeding import seeded_torch
from shards.tiling.tile import TileConfig, tile_cohort

SIDE_PX, BATCH = 32, 24
ENCODER = EncoderConfig(stem="small", width=0.25, projection_dim=32)
KINDS = ("dsmil", "abmil", "abmil_gated", "clam_sb", "max", "mean")

Found = dict[str, Tensor]


def draw_cohort(folder: Path, side_px: int = SIDE_PX, tiles_per_side: int = 5, num_slides: int = 10) -> Path:
    """Cut a drawn cohort of num_slides * tiles_per_side ** 2 patches and return its folder."""
    slides = make_cohort_images(folder / "slides", num_slides, tiles_per_side, side_px, seed=0)
    tile_cohort(slides, folder / "cohort", TileConfig(patch_px=side_px, points_file="points.csv", positive_class="tumour"))
    return folder / "cohort"


@contextmanager
def session_on(cohort: Path, world: World, config: EngineConfig | None = None) -> Iterator[Session]:
    """Yield a session on a cohort that writes no files."""
    study = open_study(Cohort.open(cohort), DataConfig(), 0)
    with PatchReader(study.cohort, ReaderConfig(), study.slide_groups) as reader:
        yield Session(study, reader, 0, world, Journal(None, world), config or EngineConfig())


def mined_of(session: Session) -> tuple[Mined, MiningConfig]:
    """Return pseudo labels and weights of drawn scores, the same on all ranks."""
    study, config = session.study, MiningConfig(neg_ratio=1.0, candidates_per_slide=0.3)
    scores = np.random.default_rng(5).random(study.cohort.num_patches, np.float32)
    return label(choose(scores, study.kinds, study.cohort.patch_bounds, config), study.kinds, config.hard_share), config


def pretrain_step(session: Session) -> tuple[Engine, Computed]:
    """Do forward and backward of the first step of pretraining. Every rank must call it."""
    config = simclr.PretrainConfig(batch_size=BATCH, epochs=1)
    engine = start_training(fresh_model(ENCODER, 0), partial(simclr.make_optimizer, config), session.engine, session.world)
    plan = plan_epoch(session.study.encoder_patches, BATCH, np.random.default_rng(0))
    return engine, simclr.compute_step(engine, config, session, 0, plan, 0, _batch_of(plan[0], session))[1]


def finetune_step(session: Session, number: int) -> tuple[Engine, Computed]:
    """Do forward and backward of a step of fine-tuning, 0: negative-anchored, 1: positive-anchored. Every rank must call it."""
    config = finetune.FinetuneConfig(batch_size=BATCH, warmup_epochs=1)
    engine = start_training(fresh_model(ENCODER, 0), partial(finetune.make_optimizer, config), session.engine, session.world)
    mined, mining = mined_of(session)
    steps = finetune.plan_steps(mined, 1, 2, config, mining, 0)
    engine.set_rate(config.lr)
    batch = _batch_of(steps[number].row, session)
    return engine, finetune.compute_step(engine, mined, config, mining, session, 1, steps, number, batch)[1]


def aggregate_step(session: Session, bags: Bags, kind: str, **settings: Any) -> tuple[Engine, Computed]:
    """Do forward and backward of a step of an aggregator's training on two pairs of slides."""
    config, study = aggregate.AggregateConfig(kind=kind, num_members=2, **settings), session.study
    with seeded_torch(0, "aggregator"):
        model = build_aggregator(kind, bags.dim, config.num_members)
    engine = wrap(model, partial(aggregate.make_optimizer, config), EngineConfig(), session.world)
    positives, negatives = (study.train[study.labels[study.train] == value] for value in (1, 0))
    pairs = np.stack([positives[:2], negatives[:2]], axis=1)
    share = Feed(bags, config.max_patches, (0, 0, 0), session.world).read(pairs)
    return engine, aggregate.compute_step(engine, 1.5, config, session.world, 0, share)[1]


def _batch_of(row: np.ndarray, session: Session) -> tuple[np.ndarray, Tensor]:
    ids = ids_of_rank(row, session.world.rank, session.world.size)
    return ids, session.reader.read(ids)


def what_came_out(engine: Engine, computed: Computed, world: World) -> Found:
    """Return loss, outputs, gradients, and the weights after the step, on the CPU."""
    assert isinstance(engine, DDPEngine)
    named = {name: p.grad for name, p in engine.module.named_parameters() if p.grad is not None}
    found = {"loss": computed.loss, "outputs": computed.outputs.float(), "gradients": _in_one(named)}
    found = {name: tensor.detach().double().cpu() for name, tensor in found.items()}
    take_step(engine, computed, "a step of a check", None, world)
    return found | {"weights": _in_one(engine.full_weights()).double().cpu()}


def _in_one(named: dict[str, Tensor]) -> Tensor:
    return torch.cat([named[name].detach().float().flatten() for name in sorted(named)])


def distance(found: Found, expected: Found) -> dict[str, float]:
    """Return the relative deviation, in the L2 norm, of everything that was found."""
    norms = {name: float(tensor.norm()) for name, tensor in expected.items()}
    return {name: float((found[name] - expected[name]).norm()) / max(norms[name], 1e-12) for name in expected}


@contextmanager
def exact_products() -> Iterator[None]:
    """Switch TF32 off during the block: 10 bits of a product would hide what a check looks for."""
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


def single(device: torch.device) -> World:
    """Return the world of one process on a device."""
    return World(0, 1, 0, device)
