"""How fast a GPU works: steps and embedding by network and precision, its idle share while it streams, decoding, the aggregator.

A step is what hnm/encoder/finetune.py does: two views of every image, the network with its head, supervised contrastive loss,
backward, finite check, SGD. Images stay in memory, but for `streaming`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import aggregator
from benchmarks.gpu_steps import session_on, single
from benchmarks.step import CONFIG, draw_images, engine_of, take, wait
from hnm.encoder.augment import to_float
from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.finetune import make_optimizer
from hnm.encoder.networks import build_encoder
from hnm.encoder.resnet import ProjectionHead
from hnm.encoder.timm_models import import_timm
from hnm.engine.engine import Engine, EngineConfig, for_inference
from hnm.engine.engines import wrap
from shards.reading.reader import PatchReader, ReaderConfig


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        side_px: of the images.
        tiles_per_side: of the drawn slides that are streamed.
        images_per_step: by network.
        images_per_batch: of the embedding.
        least_s: seconds that a rate is measured over, at least.
        bags: positive and negative bags for the aggregator.
    """

    side_px: int
    tiles_per_side: int
    images_per_step: dict[str, int]
    images_per_batch: int
    least_s: float
    bags: tuple[int, int]


NETWORKS = {"resnet18": "", "vit_s": "vit_small_patch16_224", "vit_l": "vit_large_patch16_224"}  # timm's names
SIZE = Size(224, 8, {"resnet18": 256, "vit_s": 128, "vit_l": 24}, 256, 4.0, (90, 126))
TINY = Size(32, 3, {"resnet18": 4, "vit_s": 4, "vit_l": 4}, 8, 0.0, (4, 5))


class Projected(nn.Module):
    """A network and the projection head of the contrastive loss."""

    def __init__(self, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__()
        self.encoder, self.projection = encoder, ProjectionHead(feature_dim, EncoderConfig().projection_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Return unit-length projections of images (n, 3, h, w) in [0, 1]."""
        projections: Tensor = self.projection(self.encoder(images))
        return projections


def build_network(name: str, size: Size) -> Projected:
    """Return a network with random weights: ours, or timm's of that shape (at tiny size: two blocks of it)."""
    if name == "resnet18":
        encoder = build_encoder(EncoderConfig() if size is SIZE else EncoderConfig(stem="small", width=0.125))
        return Projected(encoder, encoder.feature_dim)
    timm = import_timm(f"timm/{NETWORKS[name]}")
    small = {} if size is SIZE else {"img_size": size.side_px, "depth": 2, "embed_dim": 48, "num_heads": 3}
    network = timm.create_model(NETWORKS[name], pretrained=False, num_classes=0, **small)
    return Projected(network, network.num_features)


def rate_of(action: Callable[[], None], images: int, least_s: float, device: torch.device) -> dict[str, float]:
    """Return images per second of an action, the median of at least three calls, and the seconds of the first, which compiles."""
    seconds: list[float] = []
    while len(seconds) < 5 or sum(seconds[2:]) < least_s:
        start = time.perf_counter()
        action()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return {"images_per_s": round(images / median(seconds[2:]), 1), "first_s": round(seconds[0], 2)}


def step_rate(engine: Engine, local: int, size: Size, device: torch.device) -> dict[str, float]:
    """Return images per second of steps on `local` images in the device's memory."""
    images = draw_images(local, size.side_px).to(device)
    return rate_of(lambda: take(engine, images, [local], single(device)), local, size.least_s, device)


def network_speed(name: str, precision: str, is_compiled: bool, size: Size, device: torch.device) -> dict[str, Any]:
    """Return images per second and memory of steps and of embedding."""
    config, world = EngineConfig(precision=precision, compile=is_compiled), single(device)
    local, model = size.images_per_step[name], build_network(name, size)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    step = step_rate(wrap(model, lambda parameters: make_optimizer(CONFIG, parameters), config, world), local, size, device)
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
    found: dict[str, Any] = {"images_per_step": local, "side_px": size.side_px, "step": step, "peak_gb": round(peak, 2)}
    if is_compiled:  # hnm never compiles for embedding
        return found
    forward, batch = for_inference(model.encoder, config, world), draw_images(size.images_per_batch, size.side_px).to(device)

    @torch.inference_mode()
    def embed() -> None:
        forward(to_float(batch)).float().sum()

    return found | {"embedding": rate_of(embed, len(batch), size.least_s, device)}


def streaming(cohort: Path, size: Size, device: torch.device) -> dict[str, Any]:
    """Return images per second of bf16 steps from JPEGs and from memory, and for which share of the time the GPU had no work."""
    world, local = single(device), size.images_per_step["resnet18"]
    precision = "bf16" if device.type == "cuda" else "fp32"
    encoder = EncoderConfig() if size is SIZE else EncoderConfig(stem="small", width=0.125)
    engine = engine_of(encoder, EngineConfig(precision=precision), world)
    in_memory = step_rate(engine, local, size, device)["images_per_s"]
    num_steps = 40 if size is SIZE else 3
    busy: list[tuple[Any, Any]] = []
    with session_on(cohort, world) as session, PatchReader(session.study.cohort, ReaderConfig(threads=8)) as reader:
        random = np.random.default_rng(0)
        rows = [random.integers(0, session.study.cohort.num_patches, local) for _ in range(num_steps + 2)]
        start = 0.0
        for number, (_, images) in enumerate(reader.batches(rows)):
            if number == 2:  # the first two fill the pipeline
                wait(device)
                busy, start = [], time.perf_counter()
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
            for event in events[:1]:
                event.record()
            take(engine, images, [local], world)
            for event in events[1:]:
                event.record()
                busy.append((events[0], event))
        wait(device)
        seconds = time.perf_counter() - start
    read = num_steps * local / seconds
    found: dict[str, Any] = {"images_per_s": round(read, 1), "images_per_s_in_memory": in_memory}
    found["data_stall"] = round(max(0.0, 1 - read / in_memory), 3)
    if busy:
        found["gpu_idle_share"] = round(1 - sum(begin.elapsed_time(end) for begin, end in busy) / 1000 / seconds, 3)
    return found


def decoding(cohort: Path, size: Size) -> dict[str, Any]:
    """Return images per second that the host reads and decodes, by threads."""
    rates = {}
    for threads in (1, 2, 4, 8, 16) if size is SIZE else (1, 2):
        with session_on(cohort, single(torch.device("cpu"))) as session:
            ids = np.random.default_rng(0).integers(0, session.study.cohort.num_patches, (20 if size is SIZE else 2, 64))
            with PatchReader(session.study.cohort, ReaderConfig(threads=threads)) as reader:
                start = time.perf_counter()
                num_read = sum(len(images) for _, images in reader.batches(list(ids)))
                rates[f"{threads} threads"] = round(num_read / (time.perf_counter() - start), 1)
    return {"side_px": size.side_px, "images_per_s": rates}


def aggregator_against_loop(size: Size, device: torch.device) -> dict[str, Any]:
    """Return the seconds of an epoch of ours and of a plain loop over bags, and how far their losses lie apart."""
    found = {}
    for pairs_per_step in (1, 8):
        if size is SIZE:
            result = aggregator.measure(pairs_per_step, 2, device, say=lambda text: None)
        else:
            result = aggregator.measure(pairs_per_step, 1, device, *size.bags, say=lambda text: None)
        assert result["max_loss_difference"] < 1e-3, result
        found[f"{pairs_per_step} pairs a step"] = result
    return found
