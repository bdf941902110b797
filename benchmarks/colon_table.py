"""Figures of benchmarks.colon: means over folds with intervals, differences to hnm fold by fold, as a table."""

import json
from pathlib import Path
from statistics import median
from typing import Any

from hnm.evidence.compare_crossval import mean_differences, means
from hnm.evidence.crossval import figures_of_run

FIGURES = ("slide auc", "slide accuracy", "slide f1", "instance auc", "instance in_positive_auc")
BY_FOLD = ("slide auc", "instance auc")


def metrics_of_folds(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what each finished fold's metrics.json says by "repeat-i/fold-j", in the order of the repeats, then of the folds."""

    def place(path: Path) -> list[int]:
        return [int(name.rpartition("-")[2]) for name in path.parent.parts[-2:]]  # fold-10 comes after fold-9

    paths = sorted(folder.glob("repeat-*/fold-*/metrics.json"), key=place)
    return {str(path.parent.relative_to(folder)): json.loads(path.read_text(encoding="utf-8")) for path in paths}


def figures_of_folds(folder: Path) -> dict[str, dict[str, float]]:
    """Return the figures of each fold by "repeat-i/fold-j", then by "section name"."""
    return {name: figures_of_run(its) for name, its in metrics_of_folds(folder).items()}


def by_fold(folder: Path) -> dict[str, list[Any]]:
    """Return what the means hide: "fold" ("repeat-i/fold-j"), "slide auc", "instance auc" and "chosen_round", a list each.

    None is a figure that the fold leaves open, and the round of end-to-end training, which has none; a method that keeps the
    encoder frozen has round 0 only.
    """
    metrics = metrics_of_folds(folder)
    figures = [figures_of_run(its) for its in metrics.values()]
    columns = {name: [its.get(name) for its in figures] for name in BY_FOLD}
    return {"fold": list(metrics), **columns, "chosen_round": [its.get("chosen_round") for its in metrics.values()]}


def cost_of_folds(folder: Path) -> dict[str, float]:
    """Return what a fold costs a method, the median over folds, without pretraining (all share it) and the test.

    "encoder_steps", "seconds" and "finetune_seconds" (those of `seconds` that training the encoder took). The median,
    because other work on the machine lengthens some folds.
    """
    costs = [_cost(path.parent) for path in sorted(folder.glob("repeat-*/fold-*/metrics.json"))]
    return {name: median(cost[name] for cost in costs) for name in costs[0]}


def _cost(fold: Path) -> dict[str, float]:
    metrics = json.loads((fold / "metrics.json").read_text(encoding="utf-8"))
    seconds = finetune = metrics["seconds"]
    if (fold / "state.json").is_file():  # a run of hnm; end-to-end training has no phases
        phases = json.loads((fold / "state.json").read_text(encoding="utf-8"))["phases"]
        seconds = sum(phase["seconds"] for phase in phases if phase["phase"] not in ("pretrain", "evaluate"))
        finetune = sum(phase["seconds"] for phase in phases if phase["phase"] == "finetune")
    return {"encoder_steps": metrics["encoder_steps"], "seconds": seconds, "finetune_seconds": finetune}


def rows_of(folders: dict[str, Path], num_folds: int) -> dict[str, dict[str, Any]]:
    """Return by method the mean and interval of each figure, its cost (see `cost_of_folds`), and some figures `by_fold`."""
    rows: dict[str, dict[str, Any]] = {}
    for method, folder in folders.items():
        folds = figures_of_folds(folder)
        counts = {"folder": folder.name, "num": len(folds)}
        rows[method] = {**counts, **means(folds, FIGURES, num_folds), **cost_of_folds(folder), "by_fold": by_fold(folder)}
    return rows


def differences(folders: dict[str, Path], num_folds: int) -> dict[str, dict[str, Any]]:
    """Return by method the mean and interval of (hnm - method) over the same folds, for each figure."""
    figures = {method: figures_of_folds(folder) for method, folder in folders.items()}
    ours = figures.pop("hnm")
    return {method: mean_differences(ours, theirs, FIGURES, num_folds) for method, theirs in figures.items()}


def table(rate: str, budget: str, result: dict[str, Any]) -> str:
    """Return the figures at one witness rate and budget as Markdown."""
    heading = f"| method | {' | '.join(FIGURES)} | hnm minus it, slide auc | steps | seconds |"
    lines = [f"witness rate: {rate}, equal {budget}", "", heading, "|" + "---|" * (len(FIGURES) + 4)]
    for method, row in result["methods"].items():
        difference = result["hnm_minus"].get(method, {}).get("slide auc")
        cells = [_cell(row[name]) for name in FIGURES]
        cost = f"{row['encoder_steps']:.0f} | {row['seconds']:.0f}"
        lines.append(f"| {method} | {' | '.join(cells)} | {_cell(difference)} | {cost} |")
    return "\n".join(lines)


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return ""
    if figure["low"] is None:
        return f"{figure['mean']:.3f}"
    return f"{figure['mean']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
