"""What must hold on a GPU: each phase's step gives what the CPU gives, ranks meet, checkpoints travel, buffers are not overtaken.

    CHECKS: name ──▶ check(cohort, device) ──▶ its deviations; each raises AssertionError above its tolerance

`python -m benchmarks.gpu` runs them all, and so do the tests marked gpu. Any device will do: on a CPU they rehearse.
"""

import os
import socket
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from benchmarks.gpu_steps import (
    ENCODER,
    KINDS,
    Found,
    aggregate_step,
    distance,
    exact_products,
    finetune_step,
    pretrain_step,
    session_on,
    single,
    what_came_out,
)
from hnm.aggregator.aggregators import build_aggregator
from hnm.aggregator.bags import Bags
from hnm.aggregator.score import score_slides
from hnm.encoder import simclr
from hnm.encoder.contrastive_model import fresh_model, start_training
from hnm.encoder.embed import embed
from hnm.engine.engine import Engine, EngineConfig
from hnm.engine.ranks import World, gather_rows
from hnm.engine.step import Computed
from hnm.run.session import Session

# Sums of other orders: fp32 without TF32 differs by 1e-6 a layer; bf16 has 8 bits. Its gradients are not compared: of a network
# with random weights, whose features are all alike, they are noise (on a CPU: as far from fp32's as these are long); its outputs
# are 0.10 off there.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.25}
NOISE_IN_BF16 = "gradients"

Check = Callable[[Path, torch.device], dict[str, float]]


def _require_close(deviations: dict[str, float], tolerance: float) -> dict[str, float]:
    assert deviations, "nothing was compared"
    beyond = {name: value for name, value in deviations.items() if not value <= tolerance}
    assert not beyond, f"beyond {tolerance}: {beyond}"
    return deviations


def steps_like_on_the_cpu(cohort: Path, device: torch.device, precision: str = "fp32") -> dict[str, float]:
    """Compare one step of pretraining and both kinds of fine-tuning with the CPU's in fp32."""
    takers: dict[str, Callable[[Session], tuple[Engine, Computed]]] = {
        "pretrain": pretrain_step, "negative": partial(finetune_step, number=0), "positive": partial(finetune_step, number=1)
    }  # fmt: skip
    deviations: dict[str, float] = {}
    for name, take in takers.items():
        found = []
        for world, config in (
            (single(torch.device("cpu")), EngineConfig()), (single(device), EngineConfig(precision=precision))
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
        deviations: dict[str, float] = {}
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
