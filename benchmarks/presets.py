"""The presets on real H&E: `python -m benchmarks.presets ../shared/data/colon OUT [--ranks 2] [--presets hnm slide]`.

Runs the README's commands (prepare, tile, pretrain once, then train and evaluate presets from the same encoder, split and seed;
dsmil, its2clr and hnm unless others are named) and prints a table and, last, one JSON line. Run again, it goes on where it
stopped; timings are of this run.

`--quick` (DATA is not looked at): all of them on 40 drawn slides of 16 patches, one thread, with the CPU seconds of each.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hnm.config import load_config
from shards.drawn.synthetic import make_cohort_images
from shards.tiling.tile import tile_cohort

PRESETS = ("dsmil", "its2clr", "hnm")
ALL_PRESETS = ("frozen", "simlp", "dsmil", "its2clr", "hnm-paper", "hnm", "slide", "hnm-slide")
QUICK = ["tile.patch_px=32", "encoder.width=0.125", "aggregate.epochs=10", "pretrain.epochs=1", "finetune.batch_size=32"]


def timed(command: list[str]) -> float:
    """Run a command and return its seconds; stop if it fails."""
    print("$ " + " ".join(command), flush=True)
    begin = time.monotonic()
    subprocess.run([sys.executable, "-m", *command], check=True)
    return time.monotonic() - begin


def run_presets(data: Path, out: Path, ranks: int, presets_run: Sequence[str], extra: list[str]) -> dict[str, Any]:
    """Return the figures of every preset and the seconds of every command."""
    cohort, pretrained = str(out / "cohort"), str(out / "pretrained")
    common = ["--config", "colon", "--ranks", str(ranks), *extra]
    seconds = {
        "prepare": timed(["benchmarks.prepare_colon", str(data), str(out)]),
        "tile": timed(["launch.cli", "tile", str(out / "slides.csv"), cohort, "--config", "colon"]),
        "pretrain": timed(["launch.cli", "pretrain", cohort, pretrained, *common]),
    }
    presets = {}
    for preset in presets_run:
        run = str(out / preset)
        encoder = f"{pretrained}/encoder.safetensors"
        seconds[f"train {preset}"] = timed(
            ["launch.cli", "train", cohort, run, "--encoder", encoder, "--preset", preset, *common]
        )
        seconds[f"evaluate {preset}"] = timed(["launch.cli", "evaluate", run, "--ranks", str(ranks)])
        presets[preset] = json.loads((out / preset / "metrics.json").read_text(encoding="utf-8"))
    return {"presets": presets, "command_seconds": {name: round(value, 1) for name, value in seconds.items()}}


def run_quick(out: Path, presets: Sequence[str]) -> dict[str, Any]:
    """Return the figures of presets on drawn slides, with the CPU seconds of training and evaluating each in this process."""
    from launch.verbs import train as verbs

    torch.set_num_threads(1)
    slides = make_cohort_images(out / "slides", 40, 4, 32, seed=0)
    tile = ["tile.points_file=points.csv", "tile.positive_class=tumour", *QUICK]
    tile_cohort(slides, out / "cohort", load_config(None, None, tile).tile)
    settings = [*QUICK, "device=cpu", "tracking.enabled=false"]
    verbs.pretrain(out / "cohort", out / "pretrained", "demo", settings, ranks=1)
    figures, seconds = {}, {}
    for preset in presets:
        run, begin = out / preset, time.process_time()
        verbs.train(out / "cohort", run, out / "pretrained" / "encoder.safetensors", "demo", preset, settings, ranks=1)
        seconds[f"train {preset}"], begin = time.process_time() - begin, time.process_time()
        verbs.evaluate(run, None, ranks=1, with_report=False)
        seconds[f"evaluate {preset}"] = time.process_time() - begin
        figures[preset] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {"presets": figures, "command_seconds": {name: round(value, 1) for name, value in seconds.items()}}


def table(presets: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| preset | slide AUC (95 %) | accuracy | patch AUC | patch AUC in positive slides "
        "| witness rate by round | encoder steps | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, metrics in presets.items():
        interval, instance = metrics["slide_auc_interval"], metrics["instance"]
        witness = " ".join(f"{row['witness_rate_self_paced'] or 0:.2f}" for row in metrics["rounds"])
        lines.append(
            f"| {name} | {metrics['slide']['auc']:.3f} ({interval['low']:.2f} to {interval['high']:.2f}) "
            f"| {metrics['slide']['accuracy']:.3f} | {instance['auc']:.3f} | {instance['in_positive_auc']:.3f} "
            f"| {witness} | {metrics['encoder_steps']} | {metrics['seconds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--presets", nargs="+", choices=ALL_PRESETS, help="default: dsmil its2clr hnm; with --quick all")
    parser.add_argument("--quick", action="store_true", help="drawn slides instead: whether each runs, and what it costs")
    parser.add_argument("overrides", nargs="*", help="section.key=value for pretrain and train")
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    if arguments.quick:
        result = run_quick(arguments.out, arguments.presets or ALL_PRESETS)
    else:
        presets = arguments.presets or PRESETS
        result = run_presets(arguments.data, arguments.out, arguments.ranks, presets, arguments.overrides)
    print(table(result["presets"]))
    machine = {"cores": os.cpu_count(), "platform": platform.platform(), "torch": torch.__version__}
    total = round(sum(result["command_seconds"].values()), 1)
    head = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(sys.argv),
        "machine": machine,
        "total_seconds": total,
    }
    print(json.dumps({**head, "load_before": load_before, **result}))


if __name__ == "__main__":
    main()
