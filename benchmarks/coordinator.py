"""What ranking a cohort of N patches on 2 ranks costs: gather, mining, broadcast, one draw; seconds and memory of rank 0.

    python -m benchmarks.coordinator [--quick] [--folder TMP]

The study has the columns that the coordinator reads (slide, truth; the patch's place in its shard is no matter here) of
N patches on N / 9000 slides, half of them positive, 70 % train, 10 % validate and 20 % test. Each rank draws the scores of
its ids; then come the very calls of a round, with the mining of the `hnm` preset: rank_cohort, decide, share_mined
(`seconds`), and what every epoch then draws on every rank, negatives_of_epoch (`draw_seconds`). Each case runs in fresh
processes; the peak is rank 0's highest resident memory (VmHWM), with the interpreter, torch and the pages of the
memory-mapped scores. The last line is JSON. (Ranking by counts summed over the ranks, which chose the same, took the same
time and memory and is gone: results/2026-11-22-coordinator.json has both.)
"""

import argparse
import json
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch.multiprocessing as mp

from benchmarks.about import about

NUM_RANKS = 2
PATCHES_PER_SLIDE = 9000
Case = dict[str, Any]


def rank_main(rank: int, port: int, num_patches: int, folder: str) -> None:
    """Do one round's decision as rank `rank`, and write what it cost to folder/rank.json."""
    # Imported here: the parent stays small.
    from hnm.aggregator.score import Part, bounds_of_ranks
    from hnm.config import load_config
    from hnm.encoder.finetune import negatives_of_epoch
    from hnm.engine.ranks import barrier
    from hnm.mining.coordinator import decide, rank_cohort, share_mined
    from launch.process.distributed import join_world, leave_world

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(NUM_RANKS), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world = join_world("cpu")
    study = make_study(num_patches)
    config = load_config(None, "hnm").mining
    bounds = bounds_of_ranks(study, study.embedded_slides, world.size)
    ids = slice(int(bounds[rank]), int(bounds[rank + 1]))
    part = Part(draw_scores(ids), bounds, ids)
    barrier(world)
    run, times = Path(folder), [time.perf_counter()]
    base_gb = peak_gb()
    chosen = rank_cohort(part, study, config, run, None, world)
    times.append(time.perf_counter())
    if chosen is not None:
        decide(chosen, {"f1": 1.0}, {}, study, config, 0.2, run, None)
        del chosen
    times.append(time.perf_counter())
    mined = share_mined(run, world)
    barrier(world)
    times.append(time.perf_counter())
    drawn = negatives_of_epoch(mined, np.random.default_rng(0))
    times.append(time.perf_counter())
    barrier(world)
    phases = times[:-1]
    seconds = dict(
        zip(("gather_and_rank", "label_and_write", "broadcast"), np.diff(phases).round(3).tolist(), strict=True)
    )
    figures = {
        "seconds": round(phases[-1] - phases[0], 3),
        "seconds_by_phase": seconds,
        "draw_seconds": round(times[-1] - phases[-1], 3),
        "num_drawn": len(drawn),
        "peak_gb": round(peak_gb(), 3),
        "peak_gb_before": round(base_gb, 3),
        "num_negatives": len(mined.negatives),
        "num_candidates": len(mined.candidates),
    }
    (run / f"{rank}.json").write_text(json.dumps(figures), encoding="utf-8")
    leave_world(world)


def make_study(num_patches: int) -> Any:
    """Return a study of `num_patches` patches; columns that nobody reads here are one number, repeated without memory."""
    import pyarrow as pa

    from hnm.run.study import Study
    from shards.cohort.cohort import Cohort, Patches

    num_slides = max(20, num_patches // PATCHES_PER_SLIDE)
    random = np.random.default_rng(0)
    sizes = random.multinomial(num_patches - num_slides, random.dirichlet(np.full(num_slides, 2.0))) + 1
    slide = np.repeat(np.arange(num_slides, dtype=np.int32), sizes)
    unused = np.broadcast_to(np.int32(0), num_patches)
    truth = np.broadcast_to(np.int8(-1), num_patches)
    patches = Patches(slide, unused, unused, unused, unused, unused, truth)
    cohort = Cohort(Path("cohort"), {}, pa.table({"slide_id": [f"slide-{s}" for s in range(num_slides)]}), patches)
    order = random.permutation(num_slides)
    train, validation, test = (np.sort(part) for part in np.split(order, [num_slides * 7 // 10, num_slides * 8 // 10]))
    encoder_slides = np.zeros(num_slides, bool)
    encoder_slides[train] = True
    return Study(cohort, (np.arange(num_slides) % 2).astype(np.int8), train, validation, test, encoder_slides)


def draw_scores(ids: slice) -> np.ndarray:
    """Return scores of a range of ids, (n,) float32, in chunks of a million with a seed each; the lowest bits make ties."""
    scores = np.empty(ids.stop - ids.start, np.float32)
    for chunk in range(ids.start // 10**6, -(-ids.stop // 10**6)):
        drawn = np.random.default_rng(chunk).random(10**6, np.float32) ** 2
        first = chunk * 10**6
        begin, end = max(ids.start, first), min(ids.stop, first + 10**6)
        scores[begin - ids.start : end - ids.start] = drawn[begin - first : end - first].round(5)
    return scores


def peak_gb() -> float:
    """Return this process's highest resident memory so far, GB (10^9 bytes)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9


def measure(num_patches: int, folder: Path) -> Case:
    """Run one case in fresh processes and return rank 0's figures."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(rank_main, (port, num_patches, str(folder)), nprocs=NUM_RANKS)
    case: Case = json.loads((folder / "0.json").read_text(encoding="utf-8"))
    print(f"{num_patches:,} patches: {case}", flush=True)
    return case


def measure_often(num_patches: int, repeats: int, folder: Path) -> Case:
    """Return the fastest run, its peak the highest of all."""
    runs = []
    for number in range(repeats):
        (folder / str(number)).mkdir()
        runs.append(measure(num_patches, folder / str(number)))
    return min(runs, key=lambda case: case["seconds"]) | {"peak_gb": max(case["peak_gb"] for case in runs)}


def main() -> None:
    """Parse the command line, measure, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="10^6 and 10^7 patches, under a minute")
    parser.add_argument("--folder", type=Path, default=None, help="where the run's files go for the time of the run")
    args = parser.parse_args()
    powers = (6, 7) if args.quick else (6, 7, 8)
    repeats = 1 if args.quick else 3
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    cases = {}
    for power in powers:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            cases[f"1e{power}"] = measure_often(10**power, repeats, Path(folder))
    last, before = f"1e{powers[-1]}", f"1e{powers[-2]}"
    large, small = cases[last], cases[before]
    result = {
        f"seconds_{last}": large["seconds"],
        f"draw_seconds_{last}": large["draw_seconds"],
        f"peak_gb_{last}": large["peak_gb"],
        f"growth_{before}_to_{last}": round(large["seconds"] / small["seconds"], 2),
        "cases": cases,
    }
    print(json.dumps({**about("coordinator", args.quick, ("numpy", "torch")), **result}))


if __name__ == "__main__":
    main()
