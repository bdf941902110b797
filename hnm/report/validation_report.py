"""OUT/validation.html of `hnm validate`: does a model hold on slides of another place? One page, and the same in the terminal.

validation.json ──▶ figures/*.png ──▶ validation.html: verdict, warnings, figures, subgroups, drift, what was learned, slides
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hnm.evidence.cases import Cases
from hnm.report.page import Box, digits, interval_lines, name_of, write_page
from hnm.report.pictures import Picture, drawn_or_not
from hnm.report.table import RESULTS, SlideRow, SlideTable
from hnm.statistics.zero_width import few_patients

PAGE_FILE = "validation.html"
HEADINGS = {
    "auc": "AUC",
    "auprc": "AUPRC (average precision)",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "balanced_accuracy": "balanced accuracy",
    "ppv": "positive predictive value (PPV)",
    "npv": "negative predictive value (NPV)",
    "ppv_at_prevalence": "PPV at the stated prevalence",
    "npv_at_prevalence": "NPV at the stated prevalence",
    "brier": "Brier score (low is good)",
    "calibration_error": "calibration error, ECE (low is good)",
    "calibration_slope": "calibration slope (1 is good; below: too extreme)",
    "calibration_intercept": "calibration intercept (0 is good; below: too high)",
}
OF_LEARNED = ("auc", "brier", "calibration_error", "calibration_slope", "calibration_intercept")
CONFORMAL = {
    "coverage": "true class in the set",
    "coverage_negative": "of negative slides",
    "coverage_positive": "of positive slides",
    "not_sure": 'slides that are "not sure"',
    "right_where_sure": "right where it is sure",
}
PICTURES = {
    "scores": ("Scores", "Slides of both classes here, and the validation slides of the model as the export recorded them."),
    "curves": ("ROC, precision and recall", "At the frozen threshold. The bands are by patient (bootstrap)."),
    "calibration": ("Calibration", "Are eight of ten slides that score 0.8 positive? Scores as the model gives them."),
    "recalibration": ("Recalibration", "The slides that were not learned from, before and after."),
    "colours": ("Colours", "Of the patches of each slide: means and deviations of the channels, mean amounts of both stains."),
    "subgroups": ("Subgroups", "95 % intervals by patient; dashed: all slides. Of twenty intervals one misses by chance."),
}  # fmt: skip
COLUMNS = (
    ("slide", "text", "name of the slide"),
    ("patient", "text", "whose slide it is"),
    ("label", "number", "slide label: 1 positive, 0 negative"),
    ("score", "number", "slide score, 0 to 1"),
    ("called", "number", "1 where the score reaches the frozen threshold"),
    ("result", "text", "is what it is called its label?"),
    ("remark", "text", "a missed slide gave no patch"),
)


def make_validation_report(
    out: Path, result: Mapping[str, Any], cases: Cases, colours: Mapping[str, np.ndarray], reference: Mapping[str, Any]
) -> Path:
    """Draw the pictures of a validation and write its page; return the page.

    Args:
        out: the folder of validation.json.
        result: validation.json.
        cases: its slides.
        colours: by name the (n,) values of the slides, NaN where unknown.
        reference: what the export recorded.
    """
    write_page(
        out / PAGE_FILE,
        "validation.html",
        name=name_of(out),
        result=result,
        boxes=_boxes(result),
        headings=headings_of(result),
        of_learned=OF_LEARNED,
        conformal_headings=CONFORMAL,
        pictures=_draw(out / "figures", result, cases, colours, reference),
        table=_table(cases, result["threshold"]),
        facts=_facts(result),
    )
    return out / PAGE_FILE


def headings_of(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures that the result has, in words; PPV and NPV at a stated prevalence only where one is stated."""
    return {name: words for name, words in HEADINGS.items() if name in result["frozen"]["figures"]}


def _boxes(result: Mapping[str, Any]) -> list[Box]:
    frozen = result["frozen"]
    few = few_patients(frozen)
    boxes: list[Box] = [
        (digits(frozen["figures"][name]), [words, *interval_lines(frozen["intervals"][name], few)])
        for name, words in (("auc", "slide AUC"), ("sensitivity", "sensitivity, frozen threshold"),
                            ("specificity", "specificity, frozen threshold"), ("calibration_error", "calibration error"))
    ]  # fmt: skip
    kinds = f"{frozen['positive']} positive, {frozen['slides'] - frozen['positive']} negative"
    return [*boxes, (f"{frozen['slides']}", ["slides", kinds, f"{frozen['patients']['all']} patients"])]


def _facts(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    slides, plan = result["slides"], result["plan"]
    made = ", ".join(f"{name} {version}" for name, version in result["model"]["made_with"].items())
    return [
        ("model", result["model"]["name"]), ("round", result["model"]["round"]), ("made with", made),
        ("slides of", slides["source"]), ("labels", slides["label_column"]), ("slides there", slides["all"]),
        ("without a label", slides["unlabelled"]), ("seen by the model", sum(slides["seen"].values())),
        ("failed", slides["failed"]), ("negative without a patch", slides["empty_negative"]), ("measured", slides["measured"]),
        ("learned from", "nothing" if plan["part"] is None else f"{plan['part']:g} of the patients, seed {plan['seed']}"),
    ]  # fmt: skip


def _draw(
    folder: Path,
    result: Mapping[str, Any],
    cases: Cases,
    colours: Mapping[str, np.ndarray],
    reference: Mapping[str, Any],
) -> list[Picture]:
    """Draw what was asked for into `folder`, and return it in the page's order."""
    from hnm.report import draw_curves, draw_quality, draw_validation  # matplotlib: 0.8 s

    labels, scores, threshold = cases.labels, cases.scores, result["threshold"]
    rechosen, intervals = result["rechosen"], result["frozen"]["intervals"]
    other = rechosen["threshold"] if rechosen else None
    draw = {
        "scores": lambda path: draw_validation.draw_scores(
            path, labels, scores, reference.get("scores"), threshold, other
        ),
        "curves": lambda path: draw_curves.draw_curves(
            path, labels, scores, cases.patients, threshold, "these", result["plan"]["seed"], intervals
        ),
        "calibration": lambda path: draw_quality.draw_calibration(path, labels, scores, "these"),
        "recalibration": lambda path: draw_validation.draw_recalibration(path, result["recalibration"]),
        "colours": lambda path: draw_validation.draw_colours(path, colours, reference.get("colours")),
        "subgroups": lambda path: draw_validation.draw_subgroups(path, result["subgroups"], result["frozen"]),
    }
    asked = {"recalibration": result["recalibration"], "subgroups": result["subgroups"]}
    return [
        drawn_or_not(name, *PICTURES[name], draw[name], folder / f"{name}.png")
        for name in PICTURES
        if asked.get(name, True)
    ]


def _table(cases: Cases, threshold: float) -> SlideTable:
    rows = []
    for slide_id, patient, label, score, missed in zip(
        cases.slide_ids.tolist(),
        cases.patients.tolist(),
        cases.labels.tolist(),
        cases.scores.tolist(),
        cases.missed.tolist(),
        strict=True,
    ):
        called = int(score >= threshold)
        cells = {
            "slide": slide_id, "patient": patient, "label": str(label), "score": f"{score:.3f}", "called": str(called),
            "result": "right" if called == label else "wrong", "remark": "missed: no patch" if missed else "",
        }  # fmt: skip
        rows.append(SlideRow(cells, None, 100 * score, bool(called)))
    return SlideTable(COLUMNS, rows, {"result": RESULTS[:2]}, "name, patient, remark", "slides")


def print_validation(result: Mapping[str, Any]) -> None:
    """Print verdict, figures and warnings."""
    console, frozen, rechosen = Console(highlight=False), result["frozen"], result["rechosen"]
    kinds = f"{frozen['slides']} slides of {frozen['patients']['all']} patients, {frozen['positive']} positive"
    table = Table(title=f"{kinds}; 95 % intervals by patient", padding=(0, 0))  # so that it fits into 80 columns
    table.add_column("figure")
    table.add_column(f"frozen threshold {result['threshold']:.4f}", justify="right")
    if rechosen:
        measured_on = " (flatters)" if rechosen["flatters"] else "; remaining slides"
        table.add_column(
            f"re-chosen {rechosen['threshold']:.4f} on {rechosen['chosen_on']}{measured_on}", justify="right"
        )
    for name, words in headings_of(result).items():
        parts = [frozen, *([rechosen] if rechosen else [])]
        table.add_row(
            words.split(" (")[0], *(_with_interval(part["figures"][name], part["intervals"][name]) for part in parts)
        )
    console.print(table)
    for line in lines_of(result):
        console.print(line, markup=False, soft_wrap=True)


def lines_of(result: Mapping[str, Any]) -> list[str]:
    """Return what stands below the table of figures, line by line."""
    verdict = result["verdict"]
    lines = [f"frozen threshold: {verdict['word']}. {' '.join(verdict['says'])}"]
    for column, groups in result["subgroups"].items():
        for group in groups:
            figures = ", ".join(
                f"{HEADINGS[name]} {_with_interval(group['figures'][name], group['intervals'][name])}"
                for name in ("auc", "sensitivity", "specificity")
            )
            lines.append(
                f"{column} {group['value']}: {group['slides']} slides, {group['positive']} positive: {figures}"
            )
    if (found := result["recalibration"]) is not None:
        its = found["figures"]
        figures = "; ".join(
            f"{HEADINGS[name].split(' (')[0]} {digits(its[f'before_{name}'])} before, {digits(its[f'after_{name}'])} after"
            for name in OF_LEARNED[1:3]
        )
        lines.append(
            f"recalibrated by {found['curve']['kind']}, on the {found['measured_on']['slides']} remaining slides: {figures}"
        )
    if (found := result["conformal"]) is not None:
        figures = "; ".join(
            f"{words} {_with_interval(found['figures'][name], found['intervals'][name])}"
            for name, words in CONFORMAL.items()
        )
        lines.append(f"conformal sets, alpha {found['alpha']:g}: {figures}")
    return lines + [f"warning: {text}" for text in result["warnings"]]


def _with_interval(value: float | None, interval: Mapping[str, Any]) -> str:
    if interval["low"] is None:
        return digits(value)
    return f"{digits(value)} ({interval['low']:.3f} to {interval['high']:.3f})"
