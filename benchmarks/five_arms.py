"""Five ways to use one real encoder, on equal seconds: what does fine-tuning gain, and by which objective?

    python -m benchmarks.five_arms OUT [--cohorts natural implanted] [--folds 5] [--seeds 2] [--budget seconds=150]
                                   [--minutes 55] [--jobs 2] [--quick] [--data ../shared/data/colon]

    frozen            ImageNet's EfficientNet-Lite0 as it is, one aggregator
    supcon            hard negative mining, supervised contrastive loss
    slide-random      the slides' labels through an aggregator, random patches
    slide-weighted    likewise, patches by the weights that mining gave them
    both              slide-weighted and supcon in each step

on colon's nuclei: `natural` (99 images), and `implanted` (benchmarks/implanted.py: two bags of each negative image, in one of
them 5 % of the patches are epithelial nuclei of another image), where context tells nothing. All is one `hnm study` for each
cohort: the same folds, first features and seconds (rounds.budget) for all arms, and the same aggregator: gated attention,
one member. Test slides are read once, when an arm's fold is done.

Settings (ARMS, COMMON below) are the rates of the presets and of benchmarks/train_parts.py, fixed before any test slide of colon
was looked at; `--choose` prints how rates do on the validation slides of a drawn cohort with mimics, and nothing else.

--minutes ends a call in time: what is under way saves and is gone on with by the same command. On two cores of 2026 all of it
is meant to take 3 hours, four calls of 55 minutes. The last line is JSON; OUT/five_arms.json and OUT/five_arms.md are the table.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.about import about
from benchmarks.colon_table import FIGURES, figures_of_folds, rows_of
from benchmarks.efficientnet_lite0 import write_weights
from benchmarks.implanted import write_cohort
from benchmarks.planted import make_cohort
from hnm.evidence.compare_crossval import mean_differences
from hnm.evidence.gain import gain_of_finetuning
from hnm.run.study import DataConfig, open_study
from hnm.run_rounds import round_folder
from shards.cohort.cohort import Cohort
from shards.files import write_json

ONE = {"kind": "abmil_gated", "num_members": 1, "ranking_weight": 0.0}
MINING = {"neg_ratio": 0.2, "hard_share": 0.3333, "candidates_per_slide": 0.05, "ties": "exact"}
SLIDE = {"slides_per_step": 8, "patches_per_slide": 32, "aggregator_lr": 2e-4}
TUNING = {"optimizer": "adamw", "lr": 1e-4, "epochs_per_round": 4, "cosine_after_epoch": 100, "warmup_epochs": 2}
TUNING |= {"batch_size": 128}


def arm(objective: str, patches: str = "random") -> dict[str, Any]:
    """Return the preset of an arm that fine-tunes: rounds until the budget is spent, at a constant rate."""
    tuning = {**TUNING, "objective": objective, "slide": {**SLIDE, "patches": patches}}
    return {"rounds": {"num_rounds": 8}, "aggregate": ONE, "mining": MINING, "finetune": tuning}


ARMS: dict[str, dict[str, Any]] = {
    "arm-frozen": {"rounds": {"num_rounds": 0}, "aggregate": ONE},
    "arm-supcon": arm("supcon"),
    "arm-slide-random": arm("slide"),
    "arm-slide-weighted": arm("slide", "weighted"),
    "arm-both": arm("both", "weighted"),
}
COMMON = [
    *("encoder.name=timm/tf_efficientnet_lite0", "encoder.side_px=64", "encoder.projection_dim=64", "device=cpu"),
    *("rounds.embed_batch_size=64", "tracking.enabled=false", "finetune.augment.recipe=histology"),
    *("aggregate.epochs=50", "aggregate.lr=1e-3", "aggregate.pairs_per_step=4", "aggregate.halve_every_epochs=20"),
    *("aggregate.select=validation", "aggregate.validate_every=5"),
]
QUICK = ["encoder.side_px=32", "aggregate.epochs=5", "finetune.epochs_per_round=1", "finetune.slide.patches_per_slide=4"]
QUICK += ["finetune.batch_size=12"]
RATES = (3e-5, 1e-4, 3e-4)  # of --choose


class OutOfTimeError(SystemExit):
    """The minutes are over; what was under way has saved."""


def call(commands: list[list[str]], deadline: float | None) -> None:
    """Run commands of hnm at the same time, one thread each; end them when the time is over.

    Raises:
        OutOfTimeError: it is.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for words in commands:
        print("$ hnm " + " ".join(words), file=sys.stderr, flush=True)
    started = [
        subprocess.Popen([sys.executable, "-m", "launch.cli", *words], stdout=sys.stderr, env=environment) for words in commands
    ]
    asked = False
    while any(process.poll() is None for process in started):
        if deadline is not None and time.monotonic() > deadline and not asked:
            asked = True
            for process in started:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
    if asked:
        raise OutOfTimeError("the minutes are over: the same command goes on where it was")
    if any(process.returncode for process in started):
        raise SystemExit(f"error: hnm {commands[0][0]} failed; the same command goes on where it was")


def cohort_of(name: str, data: Path, out: Path, deadline: float | None) -> Path:
    """Return a cohort, made if it is not there."""
    if name == "drawn":
        return make_cohort(out / "drawn", (12, 8, 8), 0)
    colon = out / "colon"
    if not (colon / "cohort" / "cohort.json").is_file():
        subprocess.run([sys.executable, "-m", "benchmarks.prepare_colon", str(data), str(colon)], check=True, stdout=sys.stderr)
        call([["tile", str(colon / "slides.csv"), str(colon / "cohort"), "--config", "colon"]], deadline)
    if name == "natural":
        return colon / "cohort"
    return write_cohort(Cohort.open(colon / "cohort"), 0.05, 10, 0, out / "implanted")


def write_arms(folder: Path) -> list[Path]:
    """Write the arms' presets and return their files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, preset in ARMS.items():
        text = f"# benchmarks/five_arms.py: {name}\n" + yaml.safe_dump(preset)
        if not (folder / f"{name}.yaml").is_file() or (folder / f"{name}.yaml").read_text(encoding="utf-8") != text:
            (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return [folder / f"{name}.yaml" for name in ARMS]


def run_study(cohort: Path, out: Path, args: argparse.Namespace, deadline: float | None) -> None:
    """Run all arms on the folds of a cohort, as far as it is not done."""
    weights = args.out / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    encoder = weights / "tf_efficientnet_lite0.safetensors"
    if not encoder.is_file():
        write_weights(weights)
    methods = ",".join(str(path) for path in write_arms(args.out / "arms"))
    words = ["study", str(cohort), str(out), "--methods", methods, "--encoder", str(encoder), "--ranks", "1"]
    words += ["--folds", str(args.folds), "--seeds", str(args.seeds), "--budget", args.budget]
    words += [*COMMON, *(QUICK if args.quick else [])]
    call([[*words, "--part", "first"]], deadline)
    call([[*words, "--part", f"{job + 1}/{args.jobs}"] for job in range(args.jobs)], deadline)
    call([words], deadline)


def result_of(out: Path, folds: int) -> dict[str, Any]:
    """Return the figures of a cohort's arms, and their differences to the frozen one, fold by fold."""
    folders = {name.removeprefix("arm-"): out / "methods" / name for name in ARMS}
    figures = {name: figures_of_folds(folder) for name, folder in folders.items()}
    minus = {name: mean_differences(its, figures["frozen"], FIGURES, folds) for name, its in figures.items() if name != "frozen"}
    return {"arms": rows_of(folders, folds), "minus_frozen": minus}


def table(results: dict[str, dict[str, Any]], budget: str) -> str:
    """Return the figures as Markdown, with the 95 % intervals of a cross-validation."""
    lines = []
    for cohort, result in results.items():
        lines += [f"{cohort}, {budget} an arm", ""]
        lines.append("| arm | slide AUC | patch AUC | slide AUC minus frozen | steps | seconds |")
        lines.append("|---|---|---|---|---|---|")
        for name, row in result["arms"].items():
            cells = [_cell(row["slide auc"]), _cell(row["instance auc"])]
            cells.append(_cell(result["minus_frozen"].get(name, {}).get("slide auc")))
            lines.append(f"| {name} | {' | '.join(cells)} | {row['encoder_steps']:.0f} | {row['seconds']:.0f} |")
        lines.append("")
    return "\n".join(lines)


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return ""
    interval = "" if figure["low"] is None else f" ({figure['low']:.3f} to {figure['high']:.3f})"
    return f"{figure['mean']:.3f}{interval}"


def choose(args: argparse.Namespace, deadline: float | None) -> dict[str, Any]:
    """Return by arm and rate the validation AUC of round 0 and of the tuned round on a drawn cohort with mimics."""
    folder = args.out / "choose"
    cohort = make_cohort(folder, (12, 8, 8) if args.quick else (60, 40, 8), 100)
    weights = write_weights(folder)
    found: dict[str, Any] = {}
    for path in write_arms(args.out / "arms"):
        for rate in RATES[:1] if args.quick else RATES:
            run = folder / f"{path.stem}-{rate:g}"
            if path.stem == "arm-frozen":
                continue
            once = ["rounds.num_rounds=1", f"rounds.budget={args.budget}", f"finetune.lr={rate}", *(QUICK if args.quick else [])]
            words = ["train", str(cohort), str(run), "--encoder", str(weights), "--preset", str(path), "--ranks", "1"]
            call([[*words, *COMMON, *once]], deadline)
            study = open_study(Cohort.open(cohort), DataConfig(), 0)
            gain = gain_of_finetuning(run, 2, "last", study, 0)
            loss = json.loads((round_folder(run, 1) / "mining.json").read_text(encoding="utf-8"))["validation"]["loss"]
            found[f"{path.stem} lr={rate:g}"] = {**(gain or {}), "validation_loss": loss}
            print(json.dumps({f"{path.stem} lr={rate:g}": found[f"{path.stem} lr={rate:g}"]}), flush=True)
    return found


def main() -> None:
    """Parse the command line, run what is missing, print the table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/colon"))
    parser.add_argument("--cohorts", nargs="+", choices=("natural", "implanted", "drawn"), default=["natural", "implanted"])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--budget", default="seconds=150", help="of each arm in each fold, as rounds.budget")
    parser.add_argument("--minutes", type=float, help="end this call after so long; the same command goes on")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="arms at a time, one thread each")
    parser.add_argument("--choose", action="store_true", help="rates on the validation slides of a drawn cohort instead")
    parser.add_argument("--quick", action="store_true", help="3 folds, one seed, a few drawn slides, an epoch: whether it runs")
    args = parser.parse_args()
    if args.quick:
        args.folds, args.seeds, args.cohorts, args.budget = 3, 1, ["drawn"], "epochs=1"
    deadline = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    head = {**about("five_arms", args.quick, ("torch", "timm")), "arms": ARMS, "common": COMMON, "budget": args.budget}
    if args.choose:
        print(json.dumps({**head, "choose": choose(args, deadline)}))
        return
    results = {}
    for name in args.cohorts:
        run_study(cohort_of(name, args.data, args.out, deadline), args.out / f"study-{name}", args, deadline)
        results[name] = result_of(args.out / f"study-{name}", args.folds)
    told = table(results, args.budget)
    (args.out / "five_arms.md").write_text(told, encoding="utf-8")
    print(told, flush=True)
    result = {**head, "folds": args.folds, "seeds": args.seeds, "results": results}
    write_json(args.out / "five_arms.json", result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
