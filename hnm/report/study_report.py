"""OUT/study.html of `hnm study`: the methods beside the baselines, what each costs, how fast each learns; one page.

    study.json ──▶ figures/*.png ──▶ study.html: summary, warnings, figures, differences, cost, pictures, settings
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hnm.config import Config
from hnm.report.page import Box, digits, name_of, settings_of, write_page
from hnm.report.pictures import Picture, drawn_or_not

PAGE_FILE = "study.html"
HEADINGS = {
    "slide auc": "slide AUC",
    "instance auc": "patch AUC",
    "context slide_auc_without_positive_patches": "slide AUC without the positive patches",
    "instance in_positive_auc": "patch AUC in positive slides",
    "slide auprc": "slide average precision",
    "slide balanced_accuracy": "balanced accuracy",
    "slide brier": "Brier score (low is good)",
}
PICTURES = {
    "methods": (
        "Figures of all methods",
        "Mean over folds with its 95 % interval (Student's t, variance corrected for the training slides that folds share; it "
        "may pass 0 and 1). Grey: baselines.",
    ),
    "gains": (
        "Differences to the best baseline",
        "Fold by fold, on the same test slides; mean and 95 % interval. Left of the line a method is worse than the baseline.",
    ),
    "course": (
        "Validation AUC against seconds of training",
        "A point after each round, round 0 among them (the aggregator of the first encoder); thin: the folds, thick: the mean "
        "of each round over the folds that came to it. Validation slides chose the round, so these figures flatter. Time is "
        "that of the machine that ran it.",
    ),
}  # fmt: skip


def make_study_report(out: Path, result: Mapping[str, Any], config: Config) -> Path:
    """Draw the pictures of a study and write its page; return the page.

    Args:
        result: study.json.
        config: the settings that all methods share.
    """
    page, plan = out / PAGE_FILE, result["plan"]
    write_page(
        page,
        "study.html",
        name=name_of(out),
        sections=("figures", "differences", "cost", "pictures", "configuration", "study"),
        boxes=_boxes(result),
        warnings=warnings_of_study(result),
        rows=result["methods"],
        headings={name: words for name, words in HEADINGS.items() if any(name in row["mean"] for row in result["methods"])},
        compared={name: best for name, best in result["best_baseline"].items() if best is not None},
        budget=plan["budget"],
        is_null=plan["null"],
        pictures=draw_study_pictures(result, out / "figures"),
        settings=settings_of(config),
        facts={**plan, "methods": ", ".join(plan["methods"]), "baselines": ", ".join(plan["baselines"])},
    )
    return page


def warnings_of_study(result: Mapping[str, Any]) -> list[str]:
    """Return what one should know before one believes the page, a sentence each."""
    plan, warnings = result["plan"], []
    if plan["null"]:
        warnings.append(
            "The labels are permuted (--null): no slide AUC should differ from 0.5 by more than its interval. What does has "
            "found something that is not there. Patch figures are of the true patches."
        )
    if plan["budget"] is None and any(row["spent"]["steps"] for row in result["methods"]):
        warnings.append("No budget was given: each method trained by its own schedule, and some longer than others (see cost).")
    warnings += [f"{row['name']}: {text}" for row in result["methods"] for text in row["warnings"]]
    return warnings


def draw_study_pictures(result: Mapping[str, Any], folder: Path) -> list[Picture]:
    """Draw all pictures into `folder`, and return them in the page's order."""
    from hnm.report import draw_methods  # matplotlib: 0.8 s

    draw = {
        "methods": lambda path: draw_methods.draw_figures(path, result["methods"], ("slide auc", "instance auc"), HEADINGS),
        "gains": lambda path: draw_methods.draw_differences(path, result["methods"], result["best_baseline"], HEADINGS),
        "course": lambda path: draw_methods.draw_course(path, result["methods"]),
    }
    return [drawn_or_not(name, *PICTURES[name], draw[name], folder / f"{name}.png") for name in PICTURES]


def print_study(result: Mapping[str, Any]) -> None:
    """Print the table of all methods."""
    console = Console(highlight=False)
    title = f"{result['num_folds']} folds x {result['num_seeds']}: mean and 95 % interval over folds"
    table = Table(title=title, padding=(0, 0))  # so that it fits into 80 columns
    for heading in ("method", "slide AUC", "patch AUC", "minus best", "trained", "to predict"):
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=heading == "method")
    for row in result["methods"]:
        rate = row["seconds_per_1000_patches"]
        table.add_row(
            row["name"], with_interval(row["mean"].get("slide auc")), with_interval(row["mean"].get("instance auc")),
            with_interval(row["difference"].get("slide auc"), signed=True), f"{row['spent']['seconds']:.1f} s",
            "" if rate is None else f"{rate:.2f} s",
        )  # fmt: skip
    console.print(table)
    if (best := result["best_baseline"]["slide auc"]) is not None:
        console.print(f"minus best: the slide AUC minus that of the best baseline, {best}, fold by fold", soft_wrap=True)
        console.print("to predict: seconds for 1,000 patches, reading and embedding among them", soft_wrap=True)
    for text in warnings_of_study(result):
        console.print(f"warning: {text}", markup=False, soft_wrap=True)


def with_interval(figure: Mapping[str, Any] | None, signed: bool = False) -> str:
    """Return the mean and, on a line of its own, its interval, "" where there is no figure; a difference has its sign."""
    if figure is None:
        return ""
    sign = "+" if signed else ""
    interval = "" if figure["low"] is None else f"\n{figure['low']:{sign}.2f} to {figure['high']:{sign}.2f}"
    return f"{figure['mean']:{sign}.3f}{interval}"


def _boxes(result: Mapping[str, Any]) -> list[Box]:
    best = result["best_baseline"]["slide auc"]
    rows: Sequence[Mapping[str, Any]] = result["methods"]
    baseline = next((row for row in rows if row["name"] == best), None)
    others = [row for row in rows if not row["is_baseline"] and "slide auc" in row["mean"]]
    boxes: list[Box] = []
    if baseline is not None:
        boxes.append((digits(baseline["mean"]["slide auc"]["mean"]), ["slide AUC of the best baseline", best]))
    if others:
        top = max(others, key=lambda row: row["mean"]["slide auc"]["mean"])
        boxes.append((digits(top["mean"]["slide auc"]["mean"]), ["highest slide AUC of a method", top["name"]]))
    positive = result["num_positive"]
    kinds = f"{positive} positive, {result['num_slides'] - positive} negative"
    boxes.append((f"{result['num_slides']}", ["slides, each tested", kinds]))
    boxes.append((f"{result['num_folds']} x {result['num_seeds']}", ["folds x seeds"]))
    return boxes
