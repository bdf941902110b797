"""Figures of benchmarks.colon: means over folds with intervals, differences to hnm fold by fold, as a table."""

import json
from pathlib import Path
from statistics import median
from typing import Any

from hnm.folds import over_folds

FIGURES = ("slide auc", "slide accuracy", "slide f1", "instance auc", "instance in_positive_auc")


def metrics_of_folds(folder: Path) -> dict[str, dict[str, Any]]:
    """Return each fold's metrics.json by "repeat-i/fold-j"."""
    paths = sorted(folder.glob("repeat-*/fold-*/metrics.json"))
    return {str(path.parent.relative_to(folder)): json.loads(path.read_text(encoding="utf-8")) for path in paths}


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


def figure(metrics: dict[str, Any], name: str) -> float | None:
    """Return "section name" of a fold's metrics, None if it is unknown."""
    section, _, key = name.partition(" ")
    value: float | None = (metrics.get(section) or {}).get(key)
    return value


def rows_of(folders: dict[str, Path], num_folds: int) -> dict[str, dict[str, Any]]:
    """Return by method the mean and interval of each figure, and its cost (see `cost_of_folds`)."""
    rows: dict[str, dict[str, Any]] = {}
    for method, folder in folders.items():
        folds = list(metrics_of_folds(folder).values())
        rows[method] = {"folder": folder.name, "num": len(folds)}
        for name in FIGURES:
            values = [value for its in folds if (value := figure(its, name)) is not None]
            rows[method][name] = over_folds(values, num_folds) if values else None
        rows[method] |= cost_of_folds(folder)
    return rows


def differences(folders: dict[str, Path], num_folds: int) -> dict[str, dict[str, Any]]:
    """Return by method the mean and interval of (hnm - method) over the same folds, for each figure."""
    ours = metrics_of_folds(folders["hnm"])
    result: dict[str, dict[str, Any]] = {}
    for method, folder in folders.items():
        if method == "hnm":
            continue
        theirs, result[method] = metrics_of_folds(folder), {}
        for name in FIGURES:
            pairs = [(figure(ours[key], name), figure(theirs[key], name)) for key in sorted(ours.keys() & theirs.keys())]
            known = [first - second for first, second in pairs if first is not None and second is not None]
            result[method][name] = over_folds(known, num_folds) if known else None
    return result


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
