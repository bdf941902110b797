"""What must hold on a GPU: each phase's step gives what the CPU gives, ranks meet, checkpoints travel, buffers are not overtaken.

    CHECKS: name ──▶ check(cohort, device) ──▶ its deviations; each raises AssertionError above its tolerance

`python -m benchmarks.gpu` runs them all, and so do the tests marked gpu. Any device will do: on a CPU they rehearse.
"""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from hnm.aggregator import aggregate
from hnm.aggregator.aggregators import build_aggregator
from hnm.aggregator.bags import Bags
from hnm.aggregator.score import score_slides
from hnm.encoder import finetune, simclr
from hnm.encoder.contrastive_model import fresh_model, start_training
from hnm.encoder.embed import embed
from hnm.encoder.resnet import EncoderConfig
from hnm.engine.engine import Engine, EngineConfig
from hnm.engine.engines import DDPEngine, wrap
from hnm.engine.ranks import World, gather_rows
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
# Sums of other orders: fp32 without TF32 differs by 1e-6 a layer; bf16 has 8 bits. Its gradients are not compared: of a network
# with random weights, whose features are all alike, they are noise (on a CPU: as far from fp32's as these are long); its outputs
# are 0.10 off there.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.25}
NOISE_IN_BF16 = "gradients"
KINDS = ("dsmil", "abmil", "abmil_gated", "clam_sb", "max", "mean")

Check = Callable[[Path, torch.device], dict[str, float]]
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
    config, study = aggregate.AggregateConfig(kind=kind, num_members=2, **settings), session.study  # type: ignore[arg-type]
    with seeded_torch(0, "aggregator"):
        model = build_aggregator(kind, bags.dim, config.num_members)
    engine = wrap(model, partial(aggregate.make_optimizer, config), EngineConfig(), session.world)
    positives, negatives = (study.train[study.labels[study.train] == value] for value in (1, 0))
    pairs = np.stack([positives[:2], negatives[:2]], axis=1)
    return engine, aggregate.compute_step(engine, bags, 1.5, config, session.world, 0, pairs)[1]


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


def _require_close(deviations: dict[str, float], tolerance: float) -> dict[str, float]:
    assert deviations, "nothing was compared"
    beyond = {name: value for name, value in deviations.items() if not value <= tolerance}
    assert not beyond, f"beyond {tolerance}: {beyond}"
    return deviations


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


def steps_like_on_the_cpu(cohort: Path, device: torch.device, precision: str = "fp32") -> dict[str, float]:
    """Compare one step of pretraining and both kinds of fine-tuning with the CPU's in fp32."""
    takers: dict[str, Callable[[Session], tuple[Engine, Computed]]] = {
        "pretrain": pretrain_step, "negative": partial(finetune_step, number=0), "positive": partial(finetune_step, number=1)
    }  # fmt: skip
    deviations = {}
    for name, take in takers.items():
        found = []
        for world, config in (
            (single(torch.device("cpu")), EngineConfig()), (single(device), EngineConfig(precision=precision))  # type: ignore[arg-type]
        ):  # fmt: skip
            with exact_products(), session_on(cohort, world, config) as session:
                found.append(what_came_out(*take(session), world))
        compared = distance(found[1], found[0])
        deviations |= {f"{name} {w}": v for w, v in compared.items() if precision == "fp32" or w != NOISE_IN_BF16}
    return _require_close(deviations, TOLERANCE[precision])


def bags_like_on_the_cpu(cohort: Path, device: torch.device) -> dict[str, float]:
    """Compare the embedding, a step of every aggregator, and its scores with the CPU's."""
    found: dict[str, Found] = {"cpu": {}, "device": {}}
    with tempfile.TemporaryDirectory() as folder, exact_products():
        features = Path(folder) / "cpu"  # all aggregators work on these
        for name, world in (("cpu", single(torch.device("cpu"))), ("device", single(device))):
            with session_on(cohort, world) as session:
                slides = session.study.embedded_slides
                embed(fresh_model(ENCODER, 0).encoder, slides, 16, Path(folder) / name, session)
                found[name]["features"] = _rows_of(Bags(Path(folder) / name, torch.device("cpu")))
                bags = Bags(features, device=world.device)
                for kind in KINDS:
                    engine, computed = aggregate_step(session, bags, kind)
                    found[name] |= {f"{kind} {what}": t for what, t in what_came_out(engine, computed, world).items()}
                    model = build_aggregator(kind, bags.dim, 2)
                    model.load_state_dict(engine.full_weights())
                    logits, part = score_slides(model.to(world.device), bags, slides, session)
                    scores = torch.from_numpy(np.nan_to_num(part.scores)).double()
                    found[name] |= {f"{kind} logits": logits.double().cpu(), f"{kind} scores": scores}
    return _require_close(distance(found["device"], found["cpu"]), 2 * TOLERANCE["fp32"])


def _rows_of(bags: Bags) -> Tensor:
    return bags.rows(0, bags.num_rows).double()


def checkpoint_there_and_back(cohort: Path, device: torch.device) -> dict[str, float]:
    """Save a training on the device, load it on the CPU and there again: bits, and the next step's."""
    with tempfile.TemporaryDirectory() as folder, session_on(cohort, single(device)) as session:
        engine, computed = pretrain_step(session)
        what_came_out(engine, computed, session.world)
        engine.save(Path(folder))
        saved = {name: tensor.cpu().clone() for name, tensor in engine.full_weights().items()}
        for place in (torch.device("cpu"), device):
            other = start_training(
                fresh_model(ENCODER, 1), partial(simclr.make_optimizer, simclr.PretrainConfig()), EngineConfig(), single(place)
            )
            other.load(Path(folder))
            for name, tensor in other.full_weights().items():
                assert tensor.device.type == place.type
                assert torch.equal(tensor.cpu(), saved[name]), f"{name} is not what was saved"
    return {"tensors": float(len(saved))}


def buffers_under_load(cohort: Path, device: torch.device) -> dict[str, float]:
    """Let the device lag far behind the reader: every batch arrives as it was read, though its copy waits."""
    busy = torch.randn(2048 if device.type == "cuda" else 64, device=device).repeat(2048 if device.type == "cuda" else 64, 1)
    with session_on(cohort, single(device)) as session:
        random, num_patches = np.random.default_rng(0), session.study.cohort.num_patches
        rows = [random.integers(0, num_patches, 64) for _ in range(100)]
        sums = []
        for _, images in session.reader.batches(rows):
            for _ in range(20):
                busy = torch.tanh(busy @ busy)
            sums.append(images.to(device, non_blocking=True).sum((1, 2, 3), dtype=torch.int64))
            del images
        whole = torch.stack(sums).cpu()
        of_patch = session.reader.read(np.arange(num_patches)).clone().sum((1, 2, 3), dtype=torch.int64)
        pinned = session.reader.read(np.arange(2)).is_pinned()
    assert torch.equal(whole, of_patch[np.stack(rows)]), "a buffer was filled anew before its copy was done"
    assert pinned == (device.type == "cuda")
    return {"images": float(whole.numel())}


def _rank_main(rank: int, size: int, port: int, backend: str, device: str, function: Any, arguments: tuple[Any, ...]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    world = World(rank, size, 0, torch.device(device))
    dist.init_process_group(backend, rank=rank, world_size=size)
    function(world, *arguments)
    dist.destroy_process_group()


def _in_ranks(size: int, backend: str, device: torch.device, function: Any, *arguments: Any) -> None:
    """Run function(world, *arguments) in processes that all use the same device."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_rank_main, (size, port, backend, str(device), function, arguments), nprocs=size)


def one_rank_of_nccl(cohort: Path, device: torch.device) -> dict[str, float]:
    """Let one rank send tensors of the device to itself: over NCCL on a GPU, with DDP's buckets."""
    _in_ranks(1, "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", device, _talk_to_itself)
    return {"ranks": 1.0}


def _talk_to_itself(world: World) -> None:
    tensor = torch.arange(1000.0, device=world.device)
    blocks = [torch.empty_like(tensor)]
    dist.all_gather(blocks, tensor)
    dist.all_reduce(tensor)
    assert torch.equal(blocks[0], tensor)
    ids = [world.device.index or 0] if world.device.type == "cuda" else None
    ddp = nn.parallel.DistributedDataParallel(nn.Linear(4, 2).to(world.device), device_ids=ids)
    ddp(torch.ones(3, 4, device=world.device)).sum().backward()
    assert all(parameter.grad is not None for parameter in ddp.parameters())


def two_ranks_on_one_device(cohort: Path, device: torch.device) -> dict[str, float]:
    """Compare steps of two ranks that share the device, over gloo, with those of one rank."""
    with tempfile.TemporaryDirectory() as folder:
        _in_ranks(2, "gloo", device, _save_steps, cohort, Path(folder))
        alone = single(device)
        with exact_products(), session_on(cohort, alone) as session:
            expected = [what_came_out(*finetune_step(session, number), alone) for number in (0, 1)]
        deviations = {}
        for number in (0, 1):
            found = torch.load(Path(folder) / f"{number}.pt", weights_only=True)
            of_step = distance(found, {name: expected[number][name] for name in ("gradients", "weights")})
            deviations |= {f"step {number} {what}": value for what, value in of_step.items()}
    return _require_close(deviations, TOLERANCE["fp32"])


def _save_steps(world: World, cohort: Path, folder: Path) -> None:
    with exact_products(), session_on(cohort, world) as session:
        rows = torch.ones(world.rank + 1, 2, device=world.device, requires_grad=True)
        gather_rows(rows, [1, 2], world).sum().backward()  # ranks of unequal sizes
        for number in (0, 1):
            found = what_came_out(*finetune_step(session, number), world)
            if world.is_main:
                torch.save(found, folder / f"{number}.pt")


CHECKS: dict[str, Check] = {
    "steps, fp32": steps_like_on_the_cpu,
    "steps, bf16": partial(steps_like_on_the_cpu, precision="bf16"),
    "bags": bags_like_on_the_cpu,
    "checkpoint": checkpoint_there_and_back,
    "buffers": buffers_under_load,
    "one rank of NCCL": one_rank_of_nccl,
    "two ranks on one device": two_ranks_on_one_device,
}
