"""The table and the picture of benchmarks/mimic_curve.py."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from hnm.evidence.evaluate import read_metrics
from hnm.run_rounds import round_folder

PRIMARY = ("third", "random")  # docs/evidence-plan.md
Task = tuple[Path, float, int, str, tuple[str, ...]]


def summarise(tasks: list[Task]) -> dict[str, Any]:
    """Return the figures of all arms by rate of mimics, the planned differences, and the null controls.

    Args:
        tasks: (folder, rate of mimics, seed, control or "", arms) of each cohort; what is not done is counted as missing.
    """
    rows, missing = [], 0
    for folder, rate, seed, control, arms in tasks:
        for arm in arms:
            if (folder / arm / "metrics.json").is_file():
                rows.append({"rate": rate, "seed": seed, "control": control, "arm": arm, **figures_of(folder / arm)})
            else:
                missing += 1
    curve = [row for row in rows if not row["control"]]
    first, second = PRIMARY
    others = sorted({row["arm"] for row in curve} - {second})
    return {
        "rows": rows,
        "missing": missing,
        "by_arm": {arm: {f"{rate:g}": over_seeds(curve, arm, rate) for rate in rates_of(curve)} for arm in arms_of(curve)},
        "minus_random": {arm: {f"{rate:g}": difference(curve, arm, second, rate) for rate in rates_of(curve)} for arm in others},
        "slope_of_primary": slope(curve, first, second),
        "controls": {
            control: {arm: over_seeds(its, arm, its[0]["rate"]) for arm in arms_of(its)}
            for control in sorted({row["control"] for row in rows} - {""})
            for its in [[row for row in rows if row["control"] == control]]
        },
    }


def figures_of(run: Path) -> dict[str, Any]:
    """Return slide and patch AUC of a run's test slides, its chosen round, and tumour against mimics on validation slides."""
    metrics = read_metrics(run)
    path = round_folder(run, metrics["chosen_round"]) / "mining.json"
    decision = json.loads(path.read_text(encoding="utf-8"))
    return {
        "auc": metrics["slide"]["auc"],
        "patch_auc": (metrics.get("instance") or {}).get("auc"),
        "mimic_auc": decision.get("validation_mimic_auc"),
        "chosen_round": metrics["chosen_round"],
    }


def over_seeds(rows: list[dict[str, Any]], arm: str, rate: float) -> dict[str, Any]:
    """Return means over seeds with their 95 % t intervals."""
    its = [row for row in rows if row["arm"] == arm and row["rate"] == rate]
    return {name: interval([row[name] for row in its if row[name] is not None]) for name in ("auc", "patch_auc", "mimic_auc")}


def difference(rows: list[dict[str, Any]], arm: str, other: str, rate: float) -> dict[str, Any]:
    """Return the differences in test AUC of two arms, seed by seed."""
    return {name: interval(list(paired(rows, arm, other, rate, name).values())) for name in ("auc", "patch_auc")}


def paired(rows: list[dict[str, Any]], arm: str, other: str, rate: float, name: str) -> dict[int, float]:
    """Return by seed arm - other of one figure, of the seeds that have both."""
    of = {one: {r["seed"]: r[name] for r in rows if r["arm"] == one and r["rate"] == rate} for one in (arm, other)}
    both = [seed for seed in of[arm] if of[arm][seed] is not None and of[other].get(seed) is not None]
    return {seed: of[arm][seed] - of[other][seed] for seed in both}


def slope(rows: list[dict[str, Any]], arm: str, other: str) -> dict[str, Any]:
    """Return how the difference in test AUC grows with the rate of mimics, by 1 % of mimics: a line for each seed."""
    rates = rates_of(rows)
    of_seed = []
    for seed in sorted({row["seed"] for row in rows}):
        values = [paired(rows, arm, other, rate, "auc").get(seed) for rate in rates]
        if len(rates) > 1 and None not in values:
            of_seed.append(float(np.polyfit(100 * np.array(rates), np.array(values, float), 1)[0]))
    return interval(of_seed)


def interval(values: list[float]) -> dict[str, Any]:
    """Return mean, number and 95 % t interval of a few values; no interval of a single one."""
    from scipy.stats import t as student

    if len(values) < 2:
        return {"mean": values[0] if values else None, "low": None, "high": None, "n": len(values)}
    half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    mean = float(np.mean(values))
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": len(values)}


def rates_of(rows: list[dict[str, Any]]) -> list[float]:
    """Return the rates of mimics, ascending."""
    return sorted({row["rate"] for row in rows})


def arms_of(rows: list[dict[str, Any]]) -> list[str]:
    """Return the arms in the order of the rows."""
    return list(dict.fromkeys(row["arm"] for row in rows))


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the test AUC of each arm over the rate of mimics, with bands, and the differences to random negatives."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, table, name in ((left, result["by_arm"], "test AUC"), (right, result["minus_random"], "test AUC minus random")):
        for number, (arm, by_rate) in enumerate(table.items()):
            done = [(100 * float(rate), its["auc"]) for rate, its in by_rate.items() if its["auc"]["mean"] is not None]
            rates, means = [rate for rate, _ in done], [its["mean"] for _, its in done]
            axes.plot(rates, means, color=f"C{number}", marker="o", label=arm)
            bands = [(rate, its["low"], its["high"]) for rate, its in done if its["low"] is not None]
            if bands:
                axes.fill_between(*zip(*bands, strict=True), color=f"C{number}", alpha=0.12)
        axes.set(xlabel="mimics, % of the patches of every slide", ylabel=name)
        axes.legend(fontsize=8, frameon=False)
    right.axhline(0, color="grey", linewidth=0.8)
    figure.suptitle(f"mimics of the tumour, {len(result['seeds'])} seeds, {result['budget']} of fine-tuning, 95 % over seeds")
    figure.savefig(path, dpi=110)
