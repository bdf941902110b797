"""The aggregator at cohort size, and what a cap on the patches of a bag costs: parts of `python -m benchmarks.aggregator`.

--cohort-size   200 bags of 20,000 x 1024 float16 on disk (20 different ones, each hard-linked ten times: the page cache
                holds them all, as it would not hold a cohort). One epoch of 100 pairs, a pair a rank a step, by the very
                functions of a run: all patches and at most 4,096, on one and two ranks of one thread each. Private memory is the
                highest RssAnon of a rank; the files' own pages, which the system may take back, are not in it. And scoring,
                seconds for 10^6 patches.
--witness       slides drawn as features: a mixture of tissues, and in positive slides one patch in a thousand moved along one
                hidden direction, by 2 to 8 standard deviations, which differs from slide to slide. Trained on all of 20,000
                patches and on 4,096 of them anew every epoch, as many epochs, best one by validation; AUC of unseen slides
                and of their patches, paired by seed.
"""

import os
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from benchmarks.processes import memory_mb, on_ranks
from hnm.aggregator.aggregate import (
    AggregateConfig,
    compute_step,
    make_optimizer,
    pair_slides,
    train_aggregator,
)
from hnm.aggregator.aggregators import build_aggregator
from hnm.aggregator.bags import Bags, file_of_rows, write_index
from hnm.aggregator.feed import Feed
from hnm.aggregator.score import score_patches, slide_logits, slide_scores
from hnm.engine.engines import wrap
from hnm.engine.ranks import World, barrier, single_world
from hnm.engine.step import Progress
from hnm.run.journal import Journal
from hnm.run.session import Session, train_epoch
from hnm.run.study import Study
from hnm.statistics.metrics import auc
from shards.cohort.cohort import Cohort, Patches
from shards.seeding import numpy_generator, seeded_torch

Figures = dict[str, Any]
COHORT = {"slides": 11_000, "patches": 10_000, "ranks": 64, "train_share": 0.7, "validation_share": 0.1}
EPOCHS, LOOKS = 20, 4  # of a round at that size: early stop on validation, a look every 5 epochs
NETWORK_BYTES_PER_S, NETWORK_DELAY_S = 1e9, 5e-3  # assumed, of an exchange among 64 ranks: slow for a cluster


class Size(NamedTuple):
    """How large a measurement is."""

    slides: int
    different: int
    patches: int
    dim: int
    most: int


FULL, QUICK = Size(200, 20, 20_000, 1024, 4096), Size(8, 2, 2_000, 256, 410)


def write_features(folder: Path, size: Size) -> None:
    """Write the features of `size.slides` slides, a file each; only `size.different` of them are files of their own."""
    for number in range(size.slides):
        path = folder / file_of_rows(number * size.patches, (number + 1) * size.patches)
        first = number % size.different
        if number == first:
            random = np.random.default_rng(number)
            np.save(path, random.standard_normal((size.patches, size.dim), np.float32).astype(np.float16))
        else:
            os.link(folder / file_of_rows(first * size.patches, (first + 1) * size.patches), path)
    names = [file_of_rows(i * size.patches, (i + 1) * size.patches) for i in range(size.slides)]
    write_index(folder, np.arange(size.slides), np.full(size.slides, size.patches), names)


def study_of(labels: np.ndarray, train: np.ndarray, validation: np.ndarray) -> Study:
    """Return a study of slides whose patches nobody asks for."""
    cohort = Cohort(Path("cohort"), {}, pa.table({}), Patches(*(np.empty(0, np.int32),) * 7))
    nobody = np.empty(0, np.int64)
    return Study(cohort, labels, train, validation, nobody, np.zeros(len(labels), bool))


def epoch_on_rank(world: World, folder: str, size: Size, kind: str, members: int, most: int | None) -> Figures:
    """Return what one epoch took this rank. Every rank must call it."""
    labels = (np.arange(size.slides) % 2 == 0).astype(np.int8)
    slides = np.arange(size.slides)
    no_pictures: Any = None
    session = Session(study_of(labels, slides, slides[:0]), no_pictures, 0, world, Journal(None, world))
    bags = Bags(Path(folder), world.device)
    config = AggregateConfig(kind=kind, num_members=members, max_patches=most)
    with seeded_torch(0, "benchmark"):
        model = build_aggregator(kind, size.dim, members)
    engine = wrap(model, partial(make_optimizer, config), session.engine, world)
    engine.set_rate(config.lr)
    steps = pair_slides(slides[labels == 1], slides[labels == 0], world.size, numpy_generator(0, "pairs"))
    compute, feed = partial(compute_step, engine, 1.0, config, world), Feed(bags, most, (0, 0, 0), world)
    barrier(world)
    with Watched() as watched:
        train_epoch(engine, feed.ahead(steps), compute, Progress("aggregate"), session)
        barrier(world)
    return {"seconds": watched.seconds, "cpu_seconds": watched.cpu_seconds, "private_mb": watched.private_mb}


class Watched:
    """Wall and CPU seconds of a block, and the highest private memory (RssAnon) that was seen in it, MB."""

    def __enter__(self) -> "Watched":
        self.private_mb, self._done = memory_mb("RssAnon"), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        self._begin, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.cpu_seconds = time.perf_counter() - self._begin, time.process_time() - self._cpu
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.private_mb = max(self.private_mb, memory_mb("RssAnon"))


def scoring_on_rank(world: World, folder: str, size: Size, kind: str) -> Figures:
    """Return seconds for 10^6 patches of a slide's logit and of its patches' scores."""
    bags, slides = Bags(Path(folder), world.device), np.arange(2)
    with seeded_torch(0, "benchmark"):
        model = build_aggregator(kind, size.dim)
    rows = len(slides) * size.patches
    with Watched() as logits:
        slide_logits(model, bags, slides, world)
    with Watched() as scores, torch.no_grad():
        score_patches(model, bags, 0, rows)
    return {"slide": logits.seconds * 1e6 / rows, "patches": scores.seconds * 1e6 / rows}


def cohort_size(quick: bool, kind: str, members: int, device: str = "cpu") -> Figures:
    """Measure epochs on one and two ranks, all patches and capped, and estimate a round of a large cohort."""
    size = QUICK if quick else FULL
    found: Figures = {"size": size._asdict(), "kind": kind, "members": members}
    with tempfile.TemporaryDirectory() as folder:
        write_features(Path(folder), size)
        for name, most in (("all", None), ("capped", size.most)):
            for ranks in (1, 2):
                done = on_ranks(ranks, device, epoch_on_rank, folder, size, kind, members, most)
                highest = {key: round(max(one[key] for one in done), 3) for key in done[0]}
                found[f"{name}_{ranks}"] = highest
                print(f"{kind} x {members}, {name}, {ranks} ranks: {highest}", flush=True)
        found["scoring_seconds_per_1e6"] = on_ranks(1, device, scoring_on_rank, folder, size, kind)[0]
    for clock in ("seconds", "cpu_seconds"):  # on a busy machine the second says more
        speedup = {name: found[f"{name}_1"][clock] / found[f"{name}_2"][clock] for name in ("all", "capped")}
        found[f"speedup_2_ranks_in_{clock}"] = {name: round(ratio, 3) for name, ratio in speedup.items()}
        found[f"cap_saves_in_{clock}"] = round(found["all_1"][clock] / found["capped_1"][clock], 2)
    found["private_mb"] = max(found[f"{name}_{ranks}"]["private_mb"] for name in ("all", "capped") for ranks in (1, 2))
    found["estimate"] = estimate(found, size)
    return found


def estimate(found: Figures, size: Size) -> Figures:
    """Return how long a round's aggregator takes on a large cohort, from measured parts, and print the calculation."""
    slides, ranks = COHORT["slides"], int(COHORT["ranks"])
    pairs = int(slides * COHORT["train_share"] / 2)
    pair_s = found["capped_1"]["seconds"] / (size.slides // 2)
    steps = -(-pairs // ranks)
    weights = sum(p.numel() for p in build_aggregator(found["kind"], size.dim, found["members"]).parameters())
    exchange_s = NETWORK_DELAY_S + 2 * 4 * weights / NETWORK_BYTES_PER_S
    scoring = found["scoring_seconds_per_1e6"]
    looks_s = LOOKS * slides * COHORT["validation_share"] * COHORT["patches"] * scoring["slide"] * 1e-6 / ranks
    score_s = slides * COHORT["patches"] * (scoring["slide"] + scoring["patches"]) * 1e-6 / ranks
    looks_s, score_s = (seconds * found["members"] for seconds in (looks_s, score_s))
    train_s = EPOCHS * steps * (pair_s + exchange_s)
    read_mb = EPOCHS * 2 * pairs * min(size.most, COHORT["patches"]) * size.dim * 2e-6
    total = train_s + looks_s + score_s
    print(
        f"Estimate, {slides:,} slides of {COHORT['patches']:,} patches of {size.dim} features, {ranks} ranks like this one:\n"
        f"  training   {pairs:,} pairs / {ranks} a step (pairs_per_step=ranks) = {steps} steps, x {EPOCHS} epochs, x ("
        f"{pair_s:.3f} s a pair of at most {size.most} patches, measured + {exchange_s:.3f} s exchange of {weights * 4e-6:.1f} "
        f"MB, assumed at {NETWORK_BYTES_PER_S:.0e} B/s both ways and {NETWORK_DELAY_S} s) = {train_s:.0f} s\n"
        f"  validation {LOOKS} looks at {COHORT['validation_share']:.0%} of the slides, {scoring['slide']:.2f} s for 10^6 "
        f"patches, measured = {looks_s:.0f} s\n"
        f"  scoring    all slides and patches once, {scoring['slide'] + scoring['patches']:.2f} s for 10^6 = {score_s:.0f} s\n"
        f"  together   {total / 60:.1f} minutes a round. Features come from the page cache here; a round reads "
        f"{read_mb * 1e-6:.2f} TB of rows in {EPOCHS} epochs, {read_mb / ranks / train_s:.1f} MB/s a rank",
        flush=True,
    )
    return {"seconds": round(total), "train": round(train_s), "looks": round(looks_s), "scoring": round(score_s)}


class Drawn(NamedTuple):
    """Slides of the witness experiment: how many train, choose and test, and what their patches are like."""

    slides: tuple[int, int, int]
    patches: int
    most: int
    dim: int
    epochs: int
    seeds: int
    witness: float = 1e-3
    tissues: int = 6
    shift: float = 6.0


DRAWN, DRAWN_QUICK = Drawn((80, 40, 80), 20_000, 4096, 16, 30, 5), Drawn((24, 12, 12), 2_000, 410, 16, 4, 1, 1e-2)


def draw_slides(folder: Path, drawn: Drawn, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Write drawn slides, every other one positive; return labels (S,) and the truth of all patches (N,) bool."""
    num, random = sum(drawn.slides), numpy_generator(seed, "witness")
    centers = random.standard_normal((drawn.tissues, drawn.dim))
    hidden = random.standard_normal(drawn.dim)
    hidden *= drawn.shift / np.linalg.norm(hidden)
    labels = (np.arange(num) % 2).astype(np.int8)
    truth = (random.random((num, drawn.patches)) < drawn.witness) & (labels[:, None] == 1)
    truth[labels == 1, 0] |= ~truth[labels == 1].any(1)  # a positive slide has at least one
    visible = random.uniform(0.3, 1.3, num)  # in some slides hardly: no arm can find all
    for number in range(num):
        share = random.dirichlet(np.ones(drawn.tissues))  # slides differ in what they are made of
        rows = centers[random.choice(drawn.tissues, drawn.patches, p=share)]
        rows = rows + random.standard_normal(rows.shape) + np.where(truth[number][:, None], visible[number] * hidden, 0)
        np.save(folder / file_of_rows(number * drawn.patches, (number + 1) * drawn.patches), rows.astype(np.float16))
    names = [file_of_rows(i * drawn.patches, (i + 1) * drawn.patches) for i in range(num)]
    write_index(folder, np.arange(num), np.full(num, drawn.patches), names)
    return labels, truth.ravel()


def witness_arm(folder: Path, labels: np.ndarray, truth: np.ndarray, drawn: Drawn, seed: int, **settings: Any) -> Figures:
    """Train on the first slides, choose the epoch on the next, and return the AUCs on the last."""
    world, ends = single_world(), np.cumsum(drawn.slides)
    train, validation, test = np.split(np.arange(ends[2]), ends[:2])
    no_pictures: Any = None
    session = Session(study_of(labels, train, validation), no_pictures, seed, world, Journal(None, world))
    bags, begin = Bags(folder, world.device), time.process_time()
    given = {"epochs": drawn.epochs, "lr": 3e-3, "halve_every_epochs": drawn.epochs / 2, "validate_every": 2, **settings}
    config = AggregateConfig(select="validation", **given)
    model = train_aggregator(bags, config, 0, session)
    seconds = time.process_time() - begin
    scores = slide_scores(slide_logits(model, bags, test, world))
    rows = bags.rows_of_slide[int(test[0])][0], bags.rows_of_slide[int(test[-1])][1]
    patches = score_patches(model, bags, *rows)
    return {
        "slide_auc": auc(labels[test], scores),
        "patch_auc": auc(truth[slice(*rows)].astype(np.int8), patches),
        "cpu_seconds": round(seconds, 1),
    }


def witness(quick: bool, kind: str, members: int) -> Figures:
    """Return what a cap on the patches of a bag costs where one patch in a thousand is positive."""
    drawn = DRAWN_QUICK if quick else DRAWN
    arms: dict[str, list[Figures]] = {"all": [], "capped": []}
    for seed in range(drawn.seeds):
        with tempfile.TemporaryDirectory() as folder:
            labels, truth = draw_slides(Path(folder), drawn, seed)
            for name, most in (("all", None), ("capped", drawn.most)):
                settings = {"kind": kind, "num_members": members, "max_patches": most}
                arms[name].append(witness_arm(Path(folder), labels, truth, drawn, seed, **settings))
                print(f"{kind} x {members}, seed {seed}, {name}: {arms[name][-1]}", flush=True)
    means = {arm: {key: _mean([one[key] for one in done]) for key in done[0]} for arm, done in arms.items()}
    paired = {}
    for key in ("slide_auc", "patch_auc"):
        difference = np.array([one[key] - other[key] for one, other in zip(arms["capped"], arms["all"], strict=True)])
        deviation = round(float(difference.std(ddof=1)), 4) if len(difference) > 1 else None
        paired[key] = {"mean": _mean(difference.tolist()), "standard_deviation": deviation, "seeds": len(difference)}
    return {"drawn": drawn._asdict(), "kind": kind, "members": members, **means, "capped_minus_all": paired, "by_seed": arms}


def _mean(values: list[float]) -> float:
    return round(float(np.mean(values)), 4)
