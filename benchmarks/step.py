"""Images per second of a fine-tuning step: 2 ranks against 2 processes that do not know of each other; on a GPU: how fast.

A step is what hnm/encoder/finetune.py does with a batch in memory: two views of every image, ResNet-18, supervised
contrastive loss over the global batch, backward, finite check, SGD. One thread a rank.

    efficiency_2_ranks   images/s of 2 ranks with a batch of 2 n, over the sum of 2 single processes with n each at the same time,
                         which share the machine's caches and memory as the ranks do. The two take turns; median of the turns
    --objective slide    a step of the slide loss instead, its parts and its memory: see benchmarks/slide_step.py
    --variants           one process: channels_last, torch.compile and bf16, for both norms; and steps in chunks
    with a GPU           images/s in fp32 and bf16, of a batch that stays in memory and of batches from JPEGs (the stall), and the
                         share of the rate of a large matrix product that the step's arithmetic reaches
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.about import about
from benchmarks.processes import on_ranks
from benchmarks.slide_step import measure as measure_slide_step
from hnm.encoder.augment import AugmentConfig
from hnm.encoder.contrastive_model import draw_views, forward_backward, fresh_model, start_training
from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.finetune import FinetuneConfig, make_optimizer
from hnm.encoder.losses import supcon
from hnm.engine.engine import Engine, EngineConfig
from hnm.engine.ranks import World, barrier, single_world
from hnm.engine.step import take_step
from shards.cohort.cohort import Cohort
from shards.drawn.synthetic import make_cohort_images
from shards.files import write_json
from shards.reading.reader import PatchReader, ReaderConfig
from shards.seeding import torch_generator
from shards.tiling.tile import TileConfig, tile_cohort

AUGMENT, CONFIG = AugmentConfig(recipe="histology"), FinetuneConfig()


def engine_of(encoder: EncoderConfig, config: EngineConfig, world: World) -> Engine:
    """Return an engine that trains the encoder as fine-tuning does."""
    return start_training(fresh_model(encoder, 0), lambda p: make_optimizer(CONFIG, p), config, world)


def take(engine: Engine, images: torch.Tensor, sizes: list[int], world: World, chunk_size: int = 0) -> None:
    """Take one step on this rank's images (local, 3, h, w) uint8. Every rank must call it."""
    ids = np.arange(len(images))
    positive = torch.from_numpy(ids % 5 == 0)
    views = draw_views(images, sizes, AUGMENT, torch_generator(0), world)

    def loss_of(features: torch.Tensor) -> torch.Tensor:
        return supcon(features, positive, positive, sizes, CONFIG.tau, "negative", world)

    computed = forward_backward(engine, views, ids, sizes, chunk_size, loss_of)
    engine.set_rate(1e-4)
    take_step(engine, computed, "a step of the benchmark", None, world)


def draw_images(num_images: int, side_px: int) -> torch.Tensor:
    """Return images (n, 3, side, side) uint8, in memory as the reader leaves them."""
    return torch.randint(0, 256, (num_images, side_px, side_px, 3), dtype=torch.uint8).permute(0, 3, 1, 2)


def turns(world: World, local: int, side_px: int, num_turns: int, steps_per_turn: int) -> dict[str, Any]:
    """Let ranks and independent processes take turns; return images/s of both in each turn, all processes together."""
    images, alone = draw_images(local, side_px), single_world()
    engines = {"ranks": engine_of(EncoderConfig(), EngineConfig(), world)}
    engines["processes"] = engine_of(EncoderConfig(), EngineConfig(), alone)
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(num_turns + 1):
        for name, engine in engines.items():
            barrier(world)
            start = time.perf_counter()
            for _ in range(steps_per_turn if turn else 1):
                together = name == "ranks"
                take(engine, images, [local] * world.size if together else [local], world if together else alone)
            seconds = time.perf_counter() - start
            if turn:  # the first is for warming up
                rates[name].append(steps_per_turn * local / seconds)
    return rates


def efficiency(local: int, side_px: int, num_turns: int, steps_per_turn: int) -> dict[str, Any]:
    """Return images/s of 2 ranks and of 2 processes, and their ratio."""
    found = on_ranks(2, "cpu", turns, local, side_px, num_turns, steps_per_turn)
    rates = {name: [sum(pair) for pair in zip(*(rank[name] for rank in found), strict=True)] for name in found[0]}
    ratios = [ranks / processes for ranks, processes in zip(rates["ranks"], rates["processes"], strict=True)]
    return {
        "efficiency_2_ranks": round(median(ratios), 3),
        "efficiency_of_turns": [round(ratio, 3) for ratio in ratios],
        "images_per_s_2_ranks": round(median(rates["ranks"]), 2),
        "images_per_s_2_processes": round(median(rates["processes"]), 2),
        "images_per_rank_and_step": local,
        "side_px": side_px,
    }


def rate(
    config: EngineConfig, norm: str, local: int, side_px: int, num_steps: int, chunk_size: int, device: torch.device
) -> Any:
    """Return images/s of one process, and the seconds of its first step, which compiles."""
    world = World(0, 1, 0, device)
    engine = engine_of(EncoderConfig(norm=norm), config, world)
    images, seconds = draw_images(local, side_px).to(device), []
    for _ in range(num_steps + 1):
        start = time.perf_counter()
        take(engine, images, [local], world, chunk_size)
        wait(device)
        seconds.append(time.perf_counter() - start)
    return {"images_per_s": round(local / median(seconds[1:]), 2), "first_step_s": round(seconds[0], 1)}


def variants(local: int, side_px: int, num_steps: int, device: torch.device) -> dict[str, Any]:
    """Return images/s by norm and setting."""
    settings: dict[str, dict[str, Any]] = {
        "fp32": {},
        "fp32 channels_last": {"channels_last": True},
        "fp32 compile": {"compile": True},
        "bf16": {"precision": "bf16"},
        "bf16 channels_last": {"precision": "bf16", "channels_last": True},
        "bf16 compile": {"precision": "bf16", "compile": True},
    }
    table: dict[str, Any] = {}
    for norm in ("instance", "batch"):
        for name, fields in settings.items():
            table[f"{norm} {name}"] = rate(EngineConfig(**fields), norm, local, side_px, num_steps, 0, device)
            print(f"{norm} {name}: {table[f'{norm} {name}']}", flush=True)
    table["instance fp32 in chunks"] = rate(EngineConfig(), "instance", local, side_px, num_steps, local // 4, device)
    return table


def on_gpu(local: int, side_px: int, num_steps: int) -> dict[str, Any]:
    """Return images/s in both precisions, the stall of reading, and the share of the matrix product's rate."""
    device = torch.device("cuda")
    result: dict[str, Any] = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        config = EngineConfig(precision=precision)
        resident = rate(config, "instance", local, side_px, num_steps, 0, device)["images_per_s"]
        read = reading_rate(config, local, side_px, num_steps, device)
        achieved = resident * operations_per_image(config, side_px, device)
        result[precision] = {
            "images_per_s": resident,
            "images_per_s_reading": round(read, 2),
            "data_stall": round(max(0.0, 1 - read / resident), 3),
            "share_of_matmul_rate": round(achieved / matmul_rate(dtype, device), 3),
        }
    for chunk_size in (0, 64):
        torch.cuda.reset_peak_memory_stats()
        rate(EngineConfig(), "instance", 512, 224, 1, chunk_size, device)
        result[f"peak_gb_512_of_224_px_chunks_of_{chunk_size}"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return result


def reading_rate(config: EngineConfig, local: int, side_px: int, num_steps: int, device: torch.device) -> float:
    """Return images/s when every batch is read and decoded from a cohort's JPEGs."""
    world = World(0, 1, 0, device)
    engine = engine_of(EncoderConfig(), config, world)
    with tempfile.TemporaryDirectory() as folder:
        slides = make_cohort_images(Path(folder) / "slides", 16, 12, side_px, seed=0)
        tile = TileConfig(patch_px=side_px, points_file="points.csv", positive_class="tumour")
        tile_cohort(slides, Path(folder) / "cohort", tile)
        cohort = Cohort.open(Path(folder) / "cohort")
        generator = np.random.default_rng(0)
        rows = [generator.integers(0, cohort.num_patches, local) for _ in range(num_steps + 2)]
        with PatchReader(cohort, ReaderConfig(threads=8)) as reader:
            start = 0.0
            for number, (_, images) in enumerate(reader.batches(rows)):
                if number == 2:
                    wait(device)
                    start = time.perf_counter()
                take(engine, images, [local], world)
            wait(device)
            return num_steps * local / (time.perf_counter() - start)


def operations_per_image(config: EngineConfig, side_px: int, device: torch.device) -> float:
    """Return the floating point operations of a step's products and convolutions, per image (two views)."""
    from torch.utils.flop_counter import FlopCounterMode

    world = World(0, 1, 0, device)
    engine, images = engine_of(EncoderConfig(), config, world), draw_images(8, side_px)
    with FlopCounterMode(display=False) as counter:
        take(engine, images, [8], world)
    return counter.get_total_flops() / 8


def matmul_rate(dtype: torch.dtype, device: torch.device, side: int = 8192, repeats: int = 10) -> float:
    """Return the operations per second of a square matrix product."""
    a, b = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    a @ b
    wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        a @ b
    wait(device)
    return repeats * 2 * side**3 / (time.perf_counter() - start)


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Parse the command line, measure, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller images, fewer turns; under a minute")
    parser.add_argument("--objective", choices=("supcon", "slide"), default="supcon", help="whose step is taken")
    parser.add_argument("--variants", action="store_true", help="the table of settings instead; minutes of compiling")
    parser.add_argument("--out", type=Path, help="also write the result here")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, Any]
    if args.objective == "slide":
        with tempfile.TemporaryDirectory() as folder:
            result = measure_slide_step(Path(folder), args.quick)
    elif args.variants:
        gpu = device.type == "cuda"
        result = {"variants": variants(256 if gpu else 16, 224 if gpu else 96, 20 if gpu else 3, device)}
        result["num_threads"] = torch.get_num_threads()
    else:
        result = efficiency(16, 64, 3, 3) if args.quick else efficiency(32, 96, 5, 3)
        if device.type == "cuda":
            result |= {
                "gpu": torch.cuda.get_device_name(),
                **on_gpu(64 if args.quick else 256, 224, 5 if args.quick else 20),
            }
    result = {**about("step", args.quick, ("torch",)), **result}
    print(json.dumps(result))
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
