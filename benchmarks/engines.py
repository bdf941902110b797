"""DDP and DeepSpeed ZeRO 0 to 3, in fp32 and bf16, on 2 CPU ranks: memory per rank, time of a step, and the demo trained.

Memory: ResNet-18 with its projection head (11.6 M parameters) and Adam, 4 patches of 64 px a rank, 4 steps.
    weights_mb, optimizer_mb  bytes of the tensors that a rank holds between two steps
    peak_growth_mb            highest resident memory since before the engine was made: activations and buffers, too
Demo: `hnm train` and `evaluate` on the demo's cohort of 80 slides: pretraining, round 0, fine-tuning, round 1, with the demo's
settings but for an encoder of half the width and fewer epochs (SHORT); seconds of the training, the AUC of the test slides.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.about import about
from benchmarks.processes import memory_mb, on_ranks
from hnm.encoder.contrastive_model import fresh_model, start_training
from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.losses import nt_xent
from hnm.engine.engine import EngineConfig
from hnm.engine.ranks import World
from hnm.engine.step import Computed, take_step
from launch.verbs.demo import NUM_SLIDES, draw_slides
from shards.files import write_json

KINDS = (None, "zero0", "zero1", "zero2", "zero3")
LOCAL, SIDE_PX, NUM_STEPS = 4, 64, 4
SHORT = ["encoder.width=0.125", "pretrain.epochs=2", "aggregate.epochs=40", "rounds.num_rounds=1"]
SHORT += ["finetune.epochs_per_round=1", "finetune.warmup_epochs=0", "tracking.enabled=false"]


def one_engine(world: World, kind: str | None, precision: str) -> dict[str, Any]:
    """Train some steps and return this rank's figures. Every rank must call it."""
    config = EngineConfig.model_validate({"deepspeed": kind, "precision": precision})
    if kind:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed  # noqa: F401  (its own memory is not the engine's)
    before = memory_mb("VmRSS")
    engine = start_training(fresh_model(EncoderConfig(), 0), adam, config, world)
    views = torch.rand(2 * LOCAL, 3, SIDE_PX, SIDE_PX)
    sizes, seconds = [LOCAL] * world.size, []
    for step in range(NUM_STEPS):
        start = time.perf_counter()
        features = torch.stack(engine.model(views).chunk(2), dim=1)
        loss = nt_xent(features, sizes, 0.5, world)
        engine.set_rate(1e-3)
        engine.backward(loss)
        take_step(
            engine, Computed(loss.detach(), features.detach(), torch.arange(LOCAL).numpy()), str(step), None, world
        )
        seconds.append(time.perf_counter() - start)
    weights, state = held_bytes(engine)
    return {
        "weights_mb": round(weights / 1e6, 1),
        "optimizer_mb": round(state / 1e6, 1),
        "peak_growth_mb": round(memory_mb("VmHWM") - before, 1),
        "seconds_per_step": round(min(seconds[1:]), 3),
    }


def adam(parameters: Any) -> torch.optim.Optimizer:
    """Return the optimizer of pretraining: two moments a parameter."""
    return torch.optim.Adam(parameters)


def held_bytes(engine: Any) -> tuple[int, int]:
    """Return bytes of the weights (fp32 master copies included) and of the optimizer's state that this rank holds."""
    optimizer = engine.optimizer
    base = getattr(optimizer, "optimizer", optimizer)
    kept = [
        tensor
        for parameter in engine.module.parameters()
        for tensor in (parameter, getattr(parameter, "ds_tensor", None))
    ]
    if base is not optimizer:
        kept += engine._flat_parts()  # the optimizer works on copies of the weights
    state = [value for entry in base.state.values() for value in entry.values() if isinstance(value, torch.Tensor)]
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept if tensor is not None
    }
    return sum(storages.values()), sum(tensor.nbytes for tensor in state)


def train_demo(folder: Path, kind: str | None, precision: str, settings: list[str]) -> dict[str, Any]:
    """Pretrain, train and evaluate on the demo's cohort; return seconds and the AUC of the test slides."""
    run, start = folder / f"{kind or 'ddp'}-{precision}", time.perf_counter()
    overrides = [*settings, f"engine.deepspeed={kind or 'null'}", f"engine.precision={precision}"]
    hnm("train", str(folder / "cohort"), str(run), "--config", "demo", "--ranks", "2", *overrides)
    seconds = time.perf_counter() - start
    hnm("evaluate", str(run), "--no-report")
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {"seconds": round(seconds, 1), "test_auc": metrics["slide"]["auc"]}


def hnm(*arguments: str) -> None:
    """Run one command of ours, quietly; its last lines are shown when it fails."""
    done = subprocess.run([sys.executable, "-m", "launch.cli", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"hnm {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )


def main() -> None:
    """Parse the command line, measure, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fp32 only, without the demo; under a minute")
    parser.add_argument("--out", type=Path, help="also write the result here")
    args = parser.parse_args()
    precisions = ("fp32",) if args.quick else ("fp32", "bf16")
    cases: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not args.quick:
            slides = draw_slides(folder / "slides", NUM_SLIDES)
            hnm("tile", str(slides), str(folder / "cohort"), "--config", "demo")
        for precision in precisions:
            for kind in KINDS:
                case = f"{kind or 'ddp'} {precision}"
                ranks = on_ranks(2, "cpu", one_engine, kind, precision)
                cases[case] = {key: max(rank[key] for rank in ranks) for key in ranks[0]}
                if not args.quick:
                    cases[case]["demo"] = train_demo(folder, kind, precision, SHORT)
                print(f"{case}: {cases[case]}", flush=True)
    shrinks = [cases[f"zero{stage} fp32"]["optimizer_mb"] / cases["ddp fp32"]["optimizer_mb"] for stage in (1, 2, 3)]
    figures = {"ranks": 2, "optimizer_share_zero1_to_3": [round(share, 3) for share in shrinks], "cases": cases}
    result = {**about("engines", args.quick, ("torch", "deepspeed")), **figures}
    print(json.dumps(result))
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
