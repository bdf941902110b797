"""What a whole round costs by the size of the cohort: seconds and memory by phase on 2 ranks, at 10 and 100 times the patches.

    python -m benchmarks.scale [--quick] [--folder TMP]

`hnm train` runs on cohorts of 2.5 x 10^5, 10^6 and 10^7 patches of 16 px (benchmarks/scale_cohort.py: hard-linked tars), from an
encoder of 208 weights, for what an encoder costs is known: embed, aggregate, mine, fine-tune, and embed, aggregate and mine
again. The aggregator takes two epochs, fine-tuning one over 2 % of the negatives. `seconds` and `memory` are by size and phase,
both rounds together; `worst_growth_over_linear` is the largest of (cost of a phase at one size / at the size before) / (patches /
patches before), of the ranks' CPU seconds and of private memory: wall time on a machine that others use says little, and stands
beside it in `growth`. `private_bytes_per_patch`: what the highest private memory of a rank grows by, between the two largest
sizes, a patch. Phases of less than a second are left out of the growth. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.about import about
from benchmarks.memory import by_phase, highest, sample
from benchmarks.scale_cohort import write_cohort

ROOT = Path(__file__).resolve().parents[1]

SIZES = {"2.5e5": 250_000, "2.5e6": 2_500_000, "2.5e7": 25_000_000}
NUM_RANKS = 2
SETTINGS = [
    *("device=cpu", "tracking.enabled=false", "encoder.projection_dim=16"),
    *("rounds.num_rounds=1", "rounds.embed_batch_size=2048"),
    *("aggregate.epochs=2", "aggregate.validate_every=2", "aggregate.num_members=1"),
    *("mining.neg_ratio=0.02", "mining.hard_share=1", "finetune.batch_size=256", "finetune.epochs_per_round=1"),
    *("finetune.warmup_epochs=1", "finetune.cosine_after_epoch=1", "finetune.augment.recipe=weak"),
]
PHASES = ("start", "embed", "aggregate", "mine", "finetune")
Case = dict[str, Any]


def tiny_encoder() -> Any:
    """Return an encoder of 16 features of a patch's quarters, as --encoder python/benchmarks.scale:tiny_encoder."""
    from torch import nn

    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 16))


def measure(num_patches: int, folder: Path) -> Case:
    """Train on a cohort of that size and return the figures."""
    cohort, run = write_cohort(folder / "cohort", num_patches, has_pictures=True), folder / "run"
    begin = time.time()
    command = [sys.executable, "-m", "launch.cli", "train", str(cohort), str(run), "--ranks", str(NUM_RANKS), *SETTINGS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}  # where the ranks find the encoder
    launcher = subprocess.Popen(
        [*command, "--encoder", "python/benchmarks.scale:tiny_encoder"], stdout=sys.stderr, env=environment
    )
    try:
        samples = sample(lambda: ranks_of(launcher.pid), lambda: launcher.poll() is not None)
    finally:
        launcher.terminate()
        launcher.wait()
    if launcher.returncode:
        raise SystemExit(f"error: {run} failed (exit code {launcher.returncode})")
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    begins = [(begin, "start"), *((one["time"], one["name"]) for one in events if one["event"] == "phase")]
    stops = [at for at, _ in begins[1:]] + [time.time()]
    seconds = dict.fromkeys(PHASES, 0.0)
    for (at, name), stop in zip(begins, stops, strict=True):
        seconds[name] = round(seconds[name] + stop - at, 2)
    return {"seconds": seconds, "memory": by_phase(samples, begins)}


def ranks_of(launcher: int) -> dict[int, int]:
    """Return the process of each rank that a launcher has started."""
    found = {}
    try:
        for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found.update({int(word.removeprefix(b"RANK=")): int(pid) for word in words if word.startswith(b"RANK=")})
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        pass
    return found


def growth(small: Case, large: Case, ratio: float) -> dict[str, float]:
    """Return how much faster than the patches each cost of each phase has grown; 1 = as they have."""
    grown = {}
    for phase in PHASES:
        before, after = (case["memory"][phase] for case in (small, large))
        grown[f"{phase} private_mb"] = max(after["private_mb"].values()) / max(before["private_mb"].values()) / ratio
        if before["cpu_seconds"] >= 1:
            grown[f"{phase} cpu_seconds"] = after["cpu_seconds"] / before["cpu_seconds"] / ratio
        if small["seconds"][phase] >= 1:
            grown[f"{phase} seconds"] = large["seconds"][phase] / small["seconds"][phase] / ratio
    return {name: round(value, 3) for name, value in grown.items()}


def main() -> None:
    """Parse the command line, measure, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the two smaller sizes, a few minutes")
    parser.add_argument("--folder", type=Path, default=None, help="where the files go for the time of the run: 5 GB")
    args = parser.parse_args()
    sizes = dict(list(SIZES.items())[: 2 if args.quick else 3])
    cases = {}
    for name, num_patches in sizes.items():
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            cases[name] = measure(num_patches, Path(folder))
        print(f"{name} patches: {json.dumps(cases[name])}", flush=True)
    names = list(sizes)
    grown = {
        f"{small} to {large}": growth(cases[small], cases[large], sizes[large] / sizes[small])
        for small, large in pairwise(names)
    }
    before, last = names[-2:]
    more = highest(cases[last]["memory"]) - highest(cases[before]["memory"])
    counted = [value for of_pair in grown.values() for name, value in of_pair.items() if not name.endswith(" seconds")]
    result = {
        "worst_growth_over_linear": max(counted),
        "private_bytes_per_patch": round(more * 1e6 / (sizes[last] - sizes[before]), 2),
        "seconds": {name: case["seconds"] for name, case in cases.items()},
        "memory": {name: case["memory"] for name, case in cases.items()},
        "growth": grown,
    }
    print(json.dumps({**about("scale", args.quick, ("numpy", "torch")), **result}))


if __name__ == "__main__":
    main()
