"""The methods on colon, cross-validated, at equal optimizer steps and at equal seconds.

    python -m benchmarks.colon [--folds 5] [--seeds 2] [--quick] [--data ../shared/data/colon] [--out colon-benchmark]
                               [--device cpu]

hnm, its2clr, dsmil and end-to-end attention MIL, with the natural bags and with positive bags thinned to a witness rate of 0.05.
A budget is what a method spends on the encoder after the pretraining that all share (of a fold, seed and witness rate):

    hnm       sets both budgets: F optimizer steps, S seconds (embedding, aggregating and mining included)
    its2clr   the same number of rounds; epochs so that its steps are nearest to F, and again so that its seconds are to S
    dsmil     keeps the encoder frozen: it gets F more steps, or S more seconds, of pretraining
    frozen    hnm's aggregator on dsmil's encoders: what its rounds add is hnm minus this
    abmil     end to end from the same pretrained encoder: F steps (a pair of bags each), or S seconds

Each is a `hnm crossval` (or benchmarks.end_to_end on its folds) below OUT; run again, the same command does what is missing.
Seconds are those of the runs, with --jobs processes at a time, one thread each; "hours" is what all commands that came to an
end took together, in one call or in several. All of OUT is of one --device. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import yaml

from benchmarks.about import about
from benchmarks.colon_table import cost_of_folds, differences, figures_of_folds, rows_of, table

NATURAL, RATES, BUDGETS = "natural", ("natural", "0.05"), ("steps", "seconds")
SPENT = "spent.jsonl"  # in OUT: the seconds of each command
SETTINGS = ("encoder.width=0.125", "engine.precision=bf16", "engine.channels_last=true")  # for two cores


@dataclass(frozen=True)
class Plan:
    """What is run, and how large."""

    data: Path
    out: Path
    folds: int
    seeds: int
    rates: tuple[str, ...]
    budgets: tuple[str, ...]
    pretrain_epochs: int
    rounds: int
    epochs: int
    jobs: int
    device: str
    overrides: tuple[str, ...]

    @property
    def cohort(self) -> Path:
        return self.out / "cohort"

    def common(self, rate: str) -> list[str]:
        """Return the settings that all methods share at a witness rate."""
        settings = [f"pretrain.epochs={self.pretrain_epochs}", f"device={self.device}", "tracking.enabled=false"]
        return [*settings, *self.overrides] + ([] if rate == NATURAL else [f"data.witness_rate={rate}"])


def command(module: str, *arguments: str, threads: int = 1) -> subprocess.CompletedProcess[bytes]:
    """Run a module of ours in a process of its own; its output goes where ours goes."""
    print("$ " + " ".join([module, *arguments]), flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.run([sys.executable, "-m", module, *arguments], check=False, env=environment, stdout=sys.stderr)


def in_shares(plan: Plan, option: str, module: str, *arguments: str) -> None:
    """Run a command --jobs times at once, each with its share of the folds; stop if one fails."""
    begin = time.monotonic()
    with ThreadPoolExecutor(plan.jobs) as pool:
        shares = [f"{job + 1}/{plan.jobs}" for job in range(plan.jobs)]
        done = list(pool.map(lambda share: command(module, *arguments, option, share), shares))
    with open(plan.out / SPENT, "a", encoding="utf-8") as file:
        file.write(json.dumps({"seconds": round(time.monotonic() - begin), "command": [module, *arguments]}) + "\n")
    if any(process.returncode for process in done):
        raise SystemExit(f"error: {module} failed; the same command goes on where it was")


def crossval(plan: Plan, name: str, preset: str, rate: str, overrides: list[str], encoders_of: Path | None = None) -> Path:
    """Cross-validate one method, and return its folder."""
    out = plan.out / rate / name
    shared = ["--encoders-of", str(encoders_of)] if encoders_of else []
    fixed = ["--folds", str(plan.folds), "--repeats", str(plan.seeds), "--config", "colon", "--preset", preset, "--ranks", "1"]
    arguments = ["crossval", str(plan.cohort), str(out), *fixed, *shared, *plan.common(rate), *overrides]
    if len(figures_of_folds(out)) < plan.folds * plan.seeds or not (out / "metrics.json").is_file():
        in_shares(plan, "--fold", "launch.cli", *arguments)
        if command("launch.cli", *arguments).returncode:
            raise SystemExit(f"error: {out} could not be summarised")
    return out


def end_to_end(plan: Plan, name: str, source: Path, rate: str, limit: tuple[str, float]) -> Path:
    """Train end-to-end attention MIL on the folds of `source`, and return its folder."""
    out = plan.out / rate / name
    budget = [f"--{limit[0]}", str(limit[1]), "--device", plan.device]
    in_shares(plan, "--share", "benchmarks.end_to_end", str(source), str(out), *budget)
    return out


def hours(plan: Plan) -> float:
    """Return the hours of all commands for OUT that came to an end, by the clock, without summaries and preparation."""
    lines = (plan.out / SPENT).read_text(encoding="utf-8").splitlines()
    return round(sum(json.loads(line)["seconds"] for line in lines) / 3600, 2)


def finetuning(rounds: int, epochs: int) -> list[str]:
    """Return the schedule of a method's rounds; warm-up and constant rate take a round each, as in configs/colon.yaml."""
    first = [f"finetune.warmup_epochs={epochs}", f"finetune.cosine_after_epoch={2 * epochs}"]
    return [f"rounds.num_rounds={rounds}", f"finetune.epochs_per_round={epochs}", *first]


def pretraining(folder: Path) -> tuple[float, float]:
    """Return optimizer steps (mean) and seconds (median) of one epoch of pretraining in the folds of a cross-validation.

    The seconds are those between the ends of two epochs, so at least two are needed; a run may have been stopped there.
    """
    steps, seconds = [], []
    for path in sorted(folder.glob("repeat-*/fold-*/events.jsonl")):
        events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        ends = [event for event in events if event["event"] == "metrics" and event["phase"] == "pretrain"]
        steps.append(ends[0]["step"])
        seconds += [after["time"] - before["time"] for before, after in pairwise(ends)]
    return mean(steps), median(seconds)


def its2clr(plan: Plan, rate: str, budget: str, hnm: Path) -> Path:
    """Cross-validate its2clr with as many epochs a round as come nearest to the budget that hnm set; return its folder."""
    # It passes over all negatives in an epoch, hnm over a fifth: a fifth of the epochs shows what its epochs cost.
    epochs = max(1, round(plan.epochs / 5))
    first = crossval(plan, f"its2clr-{epochs}", "its2clr", rate, finetuning(plan.rounds, epochs), hnm)
    ours, theirs = cost_of_folds(hnm), cost_of_folds(first)
    share = ours["encoder_steps"] / theirs["encoder_steps"]
    if budget == "seconds":  # embedding and aggregating cost the same again
        spare = ours["seconds"] - (theirs["seconds"] - theirs["finetune_seconds"])
        share = spare / theirs["finetune_seconds"]
    fitting = max(1, round(epochs * share))
    return crossval(plan, f"its2clr-{fitting}", "its2clr", rate, finetuning(plan.rounds, fitting), hnm)


def dsmil(plan: Plan, rate: str, budget: str, hnm: Path) -> tuple[Path, int]:
    """Cross-validate dsmil after as many more epochs of pretraining as the budget gives; return folder and epochs."""
    epoch_steps, epoch_seconds = pretraining(hnm)
    cost = cost_of_folds(hnm)
    frozen = crossval(plan, "dsmil-0", "dsmil", rate, [], hnm)  # what aggregating costs by itself
    more = round(cost["encoder_steps"] / epoch_steps)
    if budget == "seconds":
        more = round(max(0.0, cost["seconds"] - cost_of_folds(frozen)["seconds"]) / epoch_seconds)
    longer = [f"pretrain.epochs={plan.pretrain_epochs + more}"]
    return (crossval(plan, f"dsmil-{more}", "dsmil", rate, longer) if more else frozen), more


def run_budget(plan: Plan, rate: str, budget: str) -> dict[str, Any]:
    """Run all methods at one witness rate and budget ("steps" or "seconds") and return their figures by method."""
    hnm = crossval(plan, "hnm", "hnm", rate, finetuning(plan.rounds, plan.epochs))
    cost = cost_of_folds(hnm)
    amount = round(cost["encoder_steps" if budget == "steps" else "seconds"])
    folders = {"hnm": hnm, "its2clr": its2clr(plan, rate, budget, hnm)}
    folders["dsmil"], more = dsmil(plan, rate, budget, hnm)
    folders["frozen"] = crossval(plan, f"frozen-{more}", "hnm", rate, ["rounds.num_rounds=0"], folders["dsmil"])
    folders["abmil"] = end_to_end(plan, f"abmil-{amount}-{budget}", hnm, rate, (budget, amount))
    figures = rows_of(folders, plan.folds)
    epoch_steps, epoch_seconds = pretraining(hnm)
    for method in ("dsmil", "frozen"):
        figures[method]["encoder_steps"] += more * epoch_steps
        figures[method]["seconds"] += more * epoch_seconds
    epoch = {"pretrain_epoch_steps": epoch_steps, "pretrain_epoch_seconds": epoch_seconds}
    return {"cost_of_hnm": cost | epoch, "methods": figures, "hnm_minus": differences(folders, plan.folds)}


def devices_of(out: Path) -> set[str]:
    """Return the devices that the cross-validations in OUT were begun with."""
    configs = out.glob("*/*/config.yaml")  # OUT/RATE/METHOD
    return {yaml.safe_load(path.read_text(encoding="utf-8"))["device"] for path in configs}


def parse(arguments: list[str] | None = None) -> tuple[Plan, bool]:
    """Return what the command line asks for, and whether it is --quick; refuse a second device in one OUT."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/colon"))
    parser.add_argument("--out", type=Path, default=Path("colon-benchmark"))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2, help="repeats, each with its own folds and seed")
    parser.add_argument("--rates", nargs="+", default=list(RATES), help="witness rates; natural: as the bags are")
    parser.add_argument("--budgets", nargs="+", choices=BUDGETS, default=list(BUDGETS), help="what is equal")
    parser.add_argument("--pretrain-epochs", type=int, default=8, help="at least 2")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5, help="of fine-tuning a round, for hnm; its2clr gets as many steps")
    parser.add_argument("--jobs", type=int, help="folds at a time; default: one a core, and 1 with --device cuda")
    one_device = "of all methods; default: cpu. Timings of different devices must not be mixed in one OUT (refused)"
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help=one_device)
    parser.add_argument("--quick", action="store_true", help="3 folds, one seed, a tiny encoder: does it all run?")
    parser.add_argument("overrides", nargs="*", default=list(SETTINGS), help="section.key=value for all methods")
    args = parser.parse_args(arguments)
    if own := [word for word in args.overrides if word.startswith("device=")]:
        parser.error(f"{own[0]}: end-to-end training would not follow. Give --device")
    if others := devices_of(args.out) - {args.device}:
        parser.error(f"{args.out} was begun with --device {min(others)}, not {args.device}. Use that, or another --out")
    jobs = args.jobs if args.jobs is not None else 1 if args.device == "cuda" else os.cpu_count() or 1
    plan = Plan(
        args.data, args.out, args.folds, args.seeds, tuple(args.rates), tuple(args.budgets), args.pretrain_epochs,
        args.rounds, args.epochs, jobs, args.device, tuple(args.overrides),
    )  # fmt: skip
    if args.quick:
        small = ("encoder.width=0.03125", "aggregate.epochs=20")
        plan = Plan(args.data, args.out, 3, 1, ("0.05",), tuple(args.budgets), 2, 1, 5, jobs, args.device, small)
    return plan, args.quick


def gpu(device: str) -> dict[str, str]:
    """Return the GPU's name for the result; nothing on a CPU. Stop if there is none."""
    if device == "cpu":
        return {}
    import torch  # here: the runs are processes of their own

    if not torch.cuda.is_available():
        raise SystemExit("error: --device cuda: torch finds no GPU here")
    return {"gpu": torch.cuda.get_device_name()}


def main() -> None:
    """Run what is missing, print tables and one JSON line."""
    plan, quick = parse()
    its_gpu = gpu(plan.device)
    prepare: list[tuple[str, ...]] = [("benchmarks.prepare_colon", str(plan.data), str(plan.out))]
    prepare += [("launch.cli", "tile", str(plan.out / "slides.csv"), str(plan.cohort), "--config", "colon")]
    for arguments in [] if (plan.cohort / "cohort.json").is_file() else prepare:
        if command(*arguments).returncode:
            raise SystemExit(1)
    results: dict[str, dict[str, Any]] = {rate: {} for rate in plan.rates}
    for rate in plan.rates:
        for budget in plan.budgets:
            results[rate][budget] = run_budget(plan, rate, budget)
            print(table(rate, budget, results[rate][budget]), flush=True)
    head = {**about("colon", quick, ("numpy", "torch")), **its_gpu}
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(plan).items()}
    print(json.dumps({**head, "plan": settings, "hours": hours(plan), "results": results}))


if __name__ == "__main__":
    main()
