"""What `python -m benchmarks.step --objective slide` measures: a step of the slide loss (hnm/encoder/slide_loss.py).

Two ranks share the slides' patches of a step; two processes that know nothing of each other each do half of it for themselves.
Ranks and processes take turns in the same two operating system processes, so that machine, memory and neighbours are the same:

    ranks        the step as it is                     processes        half of the slides each, alone
    ranks apart  without the sum of the gradients      alone            one process works, the other sleeps
    ranks read   patches from JPEGs, two threads each  processes read   likewise

A part's wall seconds minus its CPU seconds are what it waits for: the other rank, the network, or a core that another has.
Ranks meet in every step, so each step takes as long as the slower of the two; processes never meet. What that alone costs is
told by the processes' own steps: `efficiency_of_meeting` takes the slower of the two in each. On a machine with other work, or
whose cores are of unequal speed, it is well below 1, however fast the ranks exchange; cpu_efficiency_2_ranks is not.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hnm.encoder.slide_loss as slide_loss
from benchmarks.processes import memory_mb, on_ranks
from hnm.aggregator.aggregators import build_aggregator
from hnm.config import Config, load_config
from hnm.encoder.contrastive_model import fresh_model
from hnm.encoder.slide_loss import RoundSettings, SlideTraining
from hnm.engine.ranks import World, barrier, single_world
from hnm.engine.step import take_step
from hnm.mining.mining import Mined
from hnm.run.journal import Journal
from hnm.run.session import PatchBatch, Session
from hnm.run.study import open_study
from shards.cohort.cohort import Cohort
from shards.drawn.synthetic import make_cohort_images
from shards.reading.reader import PatchReader
from shards.tiling.tile import TileConfig, tile_cohort

NAMES = ("ranks", "processes", "ranks apart", "alone", "ranks read", "processes read")


class Stopwatch:
    """Wall and CPU seconds (all threads of the process) of the named parts, without those of parts inside them."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.inside: list[list[float]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        begin = time.perf_counter(), time.process_time()
        self.inside.append([0.0, 0.0])
        try:
            yield
        finally:
            spent = [time.perf_counter() - begin[0], time.process_time() - begin[1]]
            inner, total = self.inside.pop(), self.seconds.setdefault(name, [0.0, 0.0])
            for i in (0, 1):
                total[i] += spent[i] - inner[i]
                if self.inside:
                    self.inside[-1][i] += spent[i]

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return `function` as a part."""

        def call(*arguments: Any, **named: Any) -> Any:
            with self.part(name):
                return function(*arguments, **named)

        return call


def make_cohort(folder: Path, tiles_per_side: int, side_px: int, num_slides: int = 20) -> Path:
    """Draw and cut slides; return the cohort."""
    slides = make_cohort_images(folder / "slides", num_slides, tiles_per_side, side_px, seed=0)
    tile_cohort(slides, folder / "cohort", TileConfig(patch_px=side_px, points_file="points.csv", positive_class="tumour"))
    return folder / "cohort"


def settings_of(slides: int, patches: int, chunk_size: int = 0, *overrides: str) -> Config:
    """Return the settings of a step of so many slides and patches of each."""
    step = [f"finetune.slide.slides_per_step={slides}", f"finetune.slide.patches_per_slide={patches}"]
    return load_config(None, "slide", [*step, f"finetune.chunk_size={chunk_size}", "device=cpu", *overrides])


@contextmanager
def training_of(cohort: Path, config: Config, world: World) -> Iterator[SlideTraining]:
    """Yield a training on slide labels, ready for its first step. Every rank must call it."""
    study = open_study(Cohort.open(cohort), config.data, config.seed)
    num = study.cohort.num_patches
    nothing = Mined(np.zeros(num, np.int8), np.ones(num, np.float16), np.arange(num), np.arange(0), np.zeros(0, np.float32))
    with PatchReader(study.cohort, config.reader, study.slide_groups) as reader:
        session = Session(study, reader, config.seed, world, Journal(None, world), config.engine)
        model = fresh_model(config.encoder, 0)
        torch.manual_seed(0)
        aggregator = build_aggregator(config.aggregate.kind, model.encoder.feature_dim, config.aggregate.num_members)
        settings = RoundSettings(config.finetune, config.mining, config.aggregate, 1)
        yield SlideTraining(model, aggregator, nothing, settings, session, 0)


def take(training: SlideTraining, steps: list[Any], number: int, batch: PatchBatch, apart: bool = False) -> None:
    """Take one step; `apart`: the encoder's gradients are not summed, as if no backward pass were the step's last."""
    world = training.session.world
    if apart:
        computed = training._slide_step(steps[number].slides, 0, number, *batch, is_last=False)
    else:
        _, computed = training.compute(0, steps, number, batch)
    training.engine.set_rate(1e-6)
    take_step(training.engine, computed, "a step of the benchmark", None, world)


@contextmanager
def watched(training: SlideTraining, watch: Stopwatch) -> Iterator[None]:
    """Time the parts of the steps that are taken inside."""
    parts = {
        (slide_loss, "draw_views"): "views", (slide_loss, "gather_rows"): "gather",
        (slide_loss, "pair_losses"): "aggregator", (slide_loss, "outputs_of_chunks"): "forward",
        (slide_loss, "replay"): "encoder backward", (training.engine, "model"): "forward",
        (training.engine.head, "backward"): "aggregator backward", (training.engine.encoder, "backward"): "encoder backward",
        (training.engine, "step"): "optimizer", (training.engine, "squared_norm"): "agree",
    }  # fmt: skip
    before = {key: getattr(*key) for key in parts}
    for (owner, name), part in parts.items():
        setattr(owner, name, watch.timed(before[owner, name], part))
    try:
        with watch.part("rest: reading, agreeing"):
            yield
    finally:
        for (owner, name), original in before.items():
            setattr(owner, name, original)


def turns(world: World, cohort: str, slides: int, patches: int, num_turns: int, steps_per_turn: int) -> dict[str, Any]:
    """Let the ways of working take turns; return by name the seconds (wall, CPU) of each turn's steps, and those of the parts."""
    watches = {name: Stopwatch() for name in NAMES}
    seconds: dict[str, list[list[list[float]]]] = {name: [] for name in NAMES}  # by turn, by step: wall, CPU
    both, half = settings_of(slides, patches), settings_of(slides // 2, patches)
    with training_of(Path(cohort), both, world) as together, training_of(Path(cohort), half, single_world()) as alone:
        plans = {one: one.plan(0)[: steps_per_turn + 1] for one in (together, alone)}
        sizes = [[len(step.ids_of_rank(0, 1)) for step in plan] for plan in plans.values()]
        if sizes != [[slides * patches] * (steps_per_turn + 1), [slides // 2 * patches] * (steps_per_turn + 1)]:
            raise RuntimeError(f"steps of {sizes} patches: ranks and processes do not do the same work. Draw more slides")
        kept = {one: list(batches(one, plan)) for one, plan in plans.items()}
        for turn in range(num_turns + 1):
            for name in NAMES:
                barrier(world)
                if name == "alone" and not world.is_main:
                    continue
                one = together if name.startswith("ranks") else alone
                watch = watches[name] if turn else Stopwatch()  # the first turn is for warming up
                clock, num = [(time.perf_counter(), time.process_time())], steps_per_turn if turn else 1
                with watched(one, watch):
                    its = batches(one, plans[one][:num]) if name.endswith("read") else kept[one][:num]
                    for number, batch in enumerate(its):
                        take(one, plans[one], number, batch, apart=name == "ranks apart")
                        clock.append((time.perf_counter(), time.process_time()))
                if turn:
                    seconds[name].append([[b[0] - a[0], b[1] - a[1]] for a, b in pairwise(clock)])
        num_bytes = sum(p.numel() * p.element_size() for p in together.engine.encoder.module.parameters())  # type: ignore[attr-defined]
    return {"seconds": seconds, "parts": {n: w.seconds for n, w in watches.items()}, "mb": num_bytes / 1e6}


def batches(training: SlideTraining, plan: list[Any]) -> Iterator[PatchBatch]:
    """Return this rank's batches of the steps, read and decoded."""
    world = training.session.world
    return training.session.reader.batches([step.ids_of_rank(world.rank, world.size) for step in plan])


def efficiency(folder: Path, slides: int, patches: int, side_px: int, num_turns: int, steps_per_turn: int) -> dict[str, Any]:
    """Return what two ranks reach of two independent processes, by wall and by CPU seconds, and where the rest goes."""
    num_slides = 2 * slides * (steps_per_turn + 1)  # six of ten train: enough for steps that all are whole
    cohort = make_cohort(folder, int(np.ceil(np.sqrt(patches))), side_px, num_slides)
    first, second = on_ranks(2, "cpu", turns, str(cohort), slides, patches, num_turns, steps_per_turn)
    both = {name: np.array([first["seconds"][name], second["seconds"][name]]) for name in NAMES if name != "alone"}
    both["alone"] = np.array([first["seconds"]["alone"]])  # (processes, turns, steps, 2)
    wall = {name: 1 / (1 / its[..., 0].sum(-1)).sum(0) for name, its in both.items()}  # (turns,), of one step by all of them
    cpu = {name: its[..., 1].sum((0, 2)) for name, its in both.items()}
    meeting = both["processes"][..., 0].max(0).sum(-1) / 2

    def ratio(above: np.ndarray, below: np.ndarray) -> float:
        return round(float(np.median(above / below)), 3)

    per_step = 1 / (num_turns * steps_per_turn)
    parts = {
        name: {part: [round(s * per_step, 4) for s in its] for part, its in first["parts"][name].items()} for name in NAMES
    }
    return {
        "efficiency_2_ranks": ratio(wall["processes"], wall["ranks"]),
        "efficiency_of_turns": np.round(wall["processes"] / wall["ranks"], 3).tolist(),
        "efficiency_of_meeting": ratio(wall["processes"], meeting),
        "cpu_efficiency_2_ranks": ratio(cpu["processes"], cpu["ranks"]),
        "efficiency_without_sum_of_gradients": ratio(wall["processes"], wall["ranks apart"]),
        "cpu_efficiency_without_sum_of_gradients": ratio(cpu["processes"], cpu["ranks apart"]),
        "efficiency_reading": ratio(wall["processes read"], wall["ranks read"]),
        "cpu_efficiency_reading": ratio(cpu["processes read"], cpu["ranks read"]),
        "two_processes_over_one": ratio(wall["alone"], wall["processes"]),
        "wall_and_cpu_s_of_parts_rank_0": parts,
        "gradients_mb": round(first["mb"], 1),
        "patches_per_rank_and_step": slides // 2 * patches,
        "side_px": side_px,
    }


def memory_of_step(world: World, cohort: str, patches: int, chunk_size: int, *overrides: str) -> dict[str, Any]:
    """Return the peak memory of one step of 8 slides in this process, and what it has before, MB."""
    with training_of(Path(cohort), settings_of(8, patches, chunk_size, *overrides), world) as training:
        plan = training.plan(0)[:1]
        (batch,) = list(batches(training, plan))
        gc.collect()
        before = memory_mb("VmRSS")
        take(training, plan, 0, batch)
        return {"before_mb": before, "peak_mb": memory_mb("VmHWM"), "patches": len(batch[0])}


def memory(folder: Path, patches: int, side_px: int, chunk_size: int, *overrides: str) -> dict[str, Any]:
    """Return the memory that a step takes in chunks over what it takes all at once, each in a process of its own."""
    cohort = make_cohort(folder, int(np.ceil(np.sqrt(patches))), side_px)
    (whole,), (chunks,) = (
        on_ranks(1, "cpu", memory_of_step, str(cohort), patches, size, *overrides) for size in (0, chunk_size)
    )
    taken = {name: one["peak_mb"] - one["before_mb"] for name, one in (("whole", whole), ("chunks", chunks))}
    return {
        "memory_chunks_over_whole": round(taken["chunks"] / taken["whole"], 4),
        "step_mb_whole": round(taken["whole"], 1),
        f"step_mb_chunks_of_{chunk_size}": round(taken["chunks"], 1),
        "peak_mb_whole": round(whole["peak_mb"], 1),
        f"peak_mb_chunks_of_{chunk_size}": round(chunks["peak_mb"], 1),
        "memory_patches": whole["patches"],
        "memory_side_px": side_px,
    }


def measure(folder: Path, quick: bool) -> dict[str, Any]:
    """Return all of it; `quick`: smaller images and slides."""
    found = efficiency(folder / "step", 4, 9, 48, 2, 2) if quick else efficiency(folder / "step", 8, 16, 64, 5, 3)
    narrow = ("encoder.width=0.25",) if quick else ()
    return {**found, **memory(folder / "memory", 64 if quick else 256, 48, 64, *narrow)}
