"""run/report.html of a run with several targets: all side by side, each with a link to a page of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hnm.config import Config
from hnm.report.page import (
    REPORT_FILE,
    Box,
    digits,
    duration,
    interval_lines,
    link_to,
    name_of,
    settings_of,
    write_page,
)
from hnm.report.record import RunRecord
from hnm.report.run_warnings import warnings_of
from hnm.run.study import Study
from hnm.run.targets import Targets
from hnm.statistics.zero_width import few_patients

SECTIONS = ("targets", "classes", "configuration")


def make_targets_report(
    config: Config, run: Path, study: Study, records: Sequence[RunRecord], metrics: Mapping[str, Any] | None
) -> Path:
    """Write the page of all targets. Call it on rank 0 only, after the targets' own pages.

    Args:
        records: of each target, in their order.
        metrics: run/metrics.json, None before the evaluation.

    Returns:
        The page.
    """
    targets, page = study.targets, run / REPORT_FILE
    assert targets is not None
    classes = (metrics or {}).get("classes")
    write_page(
        page,
        "targets.html",
        name=name_of(run),
        sections=[name for name in SECTIONS if name != "classes" or classes],
        boxes=_boxes(records, metrics, targets),
        warnings=[
            f"{name}: {text}" for name, record in zip(targets.names, records, strict=True) for text in warnings_of(record)
        ],
        split="test" if metrics is not None else "validation",
        rows=[_row(name, record, run) for name, record in zip(targets.names, records, strict=True)],
        classes=classes,
        told=targets.told,
        settings=settings_of(config),
    )
    return page


def _boxes(records: Sequence[RunRecord], metrics: Mapping[str, Any] | None, targets: Targets) -> list[Box]:
    first = records[0]
    boxes: list[Box] = []
    if classes := (metrics or {}).get("classes"):
        interval = interval_lines(classes["intervals"]["macro_auc"])
        boxes.append((digits(classes["macro_auc"]), ["macro AUC, test", *interval]))
        boxes.append((digits(classes["balanced_accuracy"]), ["balanced accuracy", f"called by {classes['called_by']}"]))
        boxes.append((digits(classes["kappa"]), ["Cohen's kappa"]))
    elif mean := (metrics or {}).get("mean"):
        boxes.append((digits(mean["auc"]), ["mean slide AUC, test", f"of {len(records)} targets"]))
    seconds = sum(phase["seconds"] for phase in first.state["phases"])
    what = "classes" if targets.are_classes else "targets"
    return [
        *boxes,
        (str(len(records)), [what, "one encoder"]),
        (str(first.chosen), ["chosen round", f"of {first.num_rounds - 1}"]),
        (duration(seconds), ["computing"]),
    ]


def _row(name: str, record: RunRecord, run: Path) -> dict[str, Any]:
    measured = record.metrics or {}
    _, slides = record.judged
    labels = record.study.labels[slides]
    interval = interval_lines(measured.get("slide_auc_interval"), few_patients(measured))
    return {
        "name": name,
        "href": link_to(record.run / REPORT_FILE, run),
        "num_positive": int((labels == 1).sum()),
        "num_negative": int((labels == 0).sum()),
        "figures": measured.get("slide") or record.decisions[record.chosen]["validation"],
        "interval": ", ".join(interval),
        "threshold": record.threshold,
        "num_hard_negatives": record.decisions[record.chosen]["num_hard_negatives"],
        "num_candidates": record.decisions[record.chosen]["num_candidates"],
    }
