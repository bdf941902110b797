"""What N patches cost each of 2 ranks beside the images: seconds, private and shared memory, from opening to the plans.

    python -m benchmarks.coordinator [--quick] [--targets T] [--folder TMP]

The cohort's table lies on the disk (N / 9000 slides, half of them positive, 70 % train, 10 % validate, 20 % test); the scores of
each rank's ids are drawn. Then come the very calls of a round, with the mining of the `hnm` preset: rank_cohort, decide,
share_mined (`seconds`), and what every rank then plans: a fine-tuning epoch's steps of both kinds, drawn by weight
(`draw_seconds`), and an epoch of pretraining. Each case runs in fresh processes, sampled from outside (benchmarks/memory.py).
`private_gb`: the highest of a rank, in the mining and at other times; `shared_gb`: pages of files that a rank had mapped, the
libraries among them. With --targets T every slide has T labels, a fifth of them missing: the calls are those of a run with
data.targets, one target after another. The last line is JSON.
"""

import argparse
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch.multiprocessing as mp

from benchmarks.about import about
from benchmarks.memory import by_phase, sample
from benchmarks.scale_cohort import write_cohort

NUM_RANKS = 2
OF_MINING = ("score", "gather_and_rank", "label_and_write")
PHASES = ("start", "first_open", "open", *OF_MINING, "map", "finetune_plan", "pretrain_plan")
Case = dict[str, Any]


def rank_main(rank: int, port: int, cohort: str, folder: str, num_targets: int) -> None:
    """Do one round's decision as rank `rank`, and write what it cost to folder/rank.json."""
    # Imported here: the parent stays small.
    from hnm.config import load_config
    from hnm.encoder.finetune import plan_steps
    from hnm.engine.ranks import barrier
    from hnm.mining.coordinator import read_decision, share_mined
    from hnm.mining.joined import JoinedMined, join_round, share_joined
    from hnm.mining.mining import Mined
    from hnm.run.study import open_study
    from launch.process.distributed import join_world, leave_world
    from shards.cohort.cohort import Cohort
    from shards.reading.plan import plan_epoch

    begins = [time.time()]
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(NUM_RANKS), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world, run, config = join_world("cpu"), Path(folder), load_config(None, "hnm")

    def begin() -> None:
        barrier(world)
        begins.append(time.time())

    begin()
    Cohort.open(Path(cohort))  # makes the columns, as an old cohort's first opening does
    begin()
    study = open_study(Cohort.open(Path(cohort)), config.data, 0)
    fingerprint = study.cohort.fingerprint
    begin()
    if num_targets == 1:
        rank_and_decide(study, run, world, config.mining, begin)
        begin()
        mined: Mined | JoinedMined = share_mined(run, world)
    else:
        targets = draw_targets(study, num_targets)
        rounds = [run / key for key in targets.keys]
        study = replace(study, targets=targets)
        for target, its in enumerate(rounds):
            rank_and_decide(study.of_target(target), its, world, config.mining, begin if target == 0 else nothing)
        if world.is_main:
            decisions = dict(zip(targets.names, map(read_decision, rounds), strict=True))
            join_round(run, decisions, rounds, study.cohort.num_patches)
        begin()
        mined = share_joined(run, rounds, targets, world)
    begin()
    steps = plan_steps(mined, 6, 20, config.finetune, config.mining, 0)
    begin()
    plan = plan_epoch(study.encoder_patches, config.pretrain.batch_size, np.random.default_rng(0))
    begin()
    figures = {"begins": begins, "steps": len(steps), "pretrain_steps": len(plan), "fingerprint": fingerprint}
    of_target = mined.of_target if isinstance(mined, JoinedMined) else (mined,)
    figures |= {"num_negatives": sum(len(its.negatives) for its in of_target)}
    figures |= {"num_candidates": sum(len(its.candidates) for its in of_target)}
    (run / f"{rank}.json").write_text(json.dumps(figures), encoding="utf-8")
    leave_world(world)


def rank_and_decide(study: Any, folder: Path, world: Any, mining: Any, begin: Callable[[], None]) -> None:
    """Gather this rank's drawn scores, rank and label, as a round does for one target; `begin` is told of each phase."""
    from hnm.aggregator.score import Part, bounds_of_ranks
    from hnm.mining.coordinator import decide, rank_cohort

    folder.mkdir(parents=True, exist_ok=True)
    bounds = bounds_of_ranks(study.rows_of(study.embedded_slides), study.cohort.num_patches, world.size)
    ids = slice(int(bounds[world.rank]), int(bounds[world.rank + 1]))
    part = Part(draw_scores(ids), bounds, ids)
    begin()
    chosen = rank_cohort(part, study, mining, folder, None, world)
    del part
    begin()
    if chosen is not None:
        decide(chosen, {"f1": 1.0}, {}, study, mining, 0.2, folder, None)


def draw_targets(study: Any, num: int) -> Any:
    """Return so many targets: the first has the cohort's labels, the others drawn ones; of all a fifth is missing."""
    from hnm.run.targets import Targets

    random = np.random.default_rng(0)
    drawn = random.integers(0, 2, (num, len(study.labels)), dtype=np.int8)
    drawn[0] = study.labels
    drawn[random.random(drawn.shape) < 0.2] = -1
    return Targets(tuple(f"label_{target}" for target in range(num)), drawn)


def nothing() -> None:
    """Tell nobody."""


def draw_scores(ids: slice) -> np.ndarray:
    """Return scores of a range of ids, (n,) float32, in chunks of a million with a seed each; the lowest bits make ties."""
    scores = np.empty(ids.stop - ids.start, np.float32)
    for chunk in range(ids.start // 10**6, -(-ids.stop // 10**6)):
        drawn = np.random.default_rng(chunk).random(10**6, np.float32) ** 2
        first = chunk * 10**6
        begin, end = max(ids.start, first), min(ids.stop, first + 10**6)
        scores[begin - ids.start : end - ids.start] = drawn[begin - first : end - first].round(5)
    return scores


def measure(num_patches: int, folder: Path, num_targets: int) -> Case:
    """Run one case in fresh processes and return its figures."""
    cohort = write_cohort(folder / "cohort", num_patches, has_pictures=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.spawn(rank_main, (port, str(cohort), str(folder), num_targets), nprocs=NUM_RANKS, join=False)
    pids = {rank: process.pid for rank, process in enumerate(context.processes)}
    samples = sample(lambda: pids, lambda: context.join(timeout=0))
    rank_0 = json.loads((folder / "0.json").read_text(encoding="utf-8"))
    begins = rank_0.pop("begins")
    memory = by_phase(samples, list(zip(begins, [*PHASES, "end"], strict=True)))
    took = dict(zip(PHASES, np.diff(begins).round(3).tolist(), strict=True))
    private = {name: memory[name]["private_mb"] for name in PHASES if memory[name]["private_mb"]}
    return {
        "seconds": round(took["gather_and_rank"] + took["label_and_write"] + took["map"], 3),
        "draw_seconds": took["finetune_plan"],
        "private_gb": {
            "rank_0_mining": _gb(max(mb["0"] for name, mb in private.items() if name in OF_MINING)),
            "rank_0_else": _gb(max(mb["0"] for name, mb in private.items() if name not in OF_MINING)),
            "rank_1": _gb(max(mb["1"] for mb in private.values())),
            "after_imports": _gb(max(private["start"].values())),
        },
        "shared_gb": _gb(max(phase["shared_mb"] for phase in memory.values())),
        "shared_gb_after_imports": _gb(memory["start"]["shared_mb"]),
        "seconds_by_phase": took,
        "memory_by_phase": memory,
        **rank_0,
    }


def _gb(mb: float) -> float:
    return round(mb / 1000, 3)


def main() -> None:
    """Parse the command line, measure, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="10^6 and 10^7 patches, under a minute")
    parser.add_argument("--folder", type=Path, default=None, help="where the files go for the time of the run: 8 GB")
    parser.add_argument("--targets", type=int, default=1, help="targets of a slide")
    args = parser.parse_args()
    powers = (6, 7) if args.quick else (6, 7, 8)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    cases = {}
    for power in powers:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            cases[f"1e{power}"] = measure(10**power, Path(folder), args.targets)
            print(f"10^{power} patches: {cases[f'1e{power}']}", flush=True)
    last, before = f"1e{powers[-1]}", f"1e{powers[-2]}"
    large, small = cases[last], cases[before]
    result = {
        "targets": args.targets,
        f"seconds_{last}": large["seconds"],
        f"draw_seconds_{last}": large["draw_seconds"],
        f"private_gb_{last}": large["private_gb"],
        f"shared_gb_{last}": large["shared_gb"],
        f"growth_{before}_to_{last}": round(large["seconds"] / small["seconds"], 2),
        "cases": cases,
    }
    print(json.dumps({**about("coordinator", args.quick, ("numpy", "torch")), **result}))


if __name__ == "__main__":
    main()
