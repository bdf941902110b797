"""run/report.html: one self-contained page to look at before believing a run. It opens from a file and asks no network.

RunRecord ──▶ figures/*.png, figures/heatmaps/*.jpg ──▶ report.html: summary, warnings, rounds, pictures, slides,
                                                        heatmaps, configuration, environment
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hnm.config import flatten
from hnm.evidence.calls import calls_told
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
from hnm.report.pictures import Picture, draw_heatmaps, draw_pictures
from hnm.report.record import RunRecord
from hnm.report.run_warnings import warnings_of
from hnm.report.slides import slide_table
from hnm.report.top_patches import NUM_IN_PAGE, TOP_FILE, VIEW_FOLDER, TopPatch, TopPatches, write_top_patches
from hnm.statistics.thresholds import policy_in_words
from hnm.statistics.zero_width import interval_remark
from shards.cohort.slides import slide_key
from shards.reading.reader import PatchReader

MAX_EMBEDDED = 120  # heatmaps in the page itself, 40 kB each: it stays below 10 MB; the others are linked

OF_TRUTH = ("instance", "froc", "context")  # parts of metrics.json that need patch truth

SECTIONS = ("rounds", "metrics", "pictures", "slides", "heatmaps", "configuration", "environment")

Progress = Callable[[Iterable[int], str, int], Iterable[int]]


@dataclass(frozen=True)
class HeatmapCard:
    """A heatmap in the page, and what is said below it."""

    path: Path
    href: str
    key: str
    slide_id: str
    split: str
    label: str
    score: float
    patches: list[tuple[TopPatch, str | None]]  # each with its place in run/view/


def make_report(
    record: RunRecord, reader: PatchReader, device: torch.device, max_heatmaps: int, progress: Progress
) -> Path:
    """Draw the pictures of a run and write its page. Call it on rank 0 only.

    Args:
        record: the run.
        reader: of its cohort.
        device: where the map's patches are embedded.
        max_heatmaps: slides of which a heatmap is drawn; the judged split first, then validation, then training slides.
        progress: wraps the loop over heatmaps.

    Returns:
        The page.
    """
    pictures = draw_pictures(record, reader, device, record.run / "figures")
    order = slides_in_order(record)
    drawn = progress(order[:max_heatmaps], "heatmaps", len(order[:max_heatmaps]))
    heatmaps = draw_heatmaps(record, drawn, record.run / "figures" / "heatmaps")
    embedded = list(heatmaps)[:MAX_EMBEDDED]
    if record.study.cohort.has_places:
        write_top_patches(record.run / TOP_FILE, TopPatches(record), order, record.num_rounds)
    page = record.run / REPORT_FILE
    write_page(page, "run.html", **values_of(record, pictures, heatmaps, embedded, len(order)))
    return page


def values_of(
    record: RunRecord, pictures: list[Picture], heatmaps: Mapping[int, Path], embedded: list[int], num_scored: int
) -> dict[str, Any]:
    """Return the values that templates/run.html lays out.

    Args:
        record: the run.
        pictures: in the page's order.
        heatmaps: files by slide number.
        embedded: slides whose heatmap is in the page itself, in order.
        num_scored: slides that have a score.
    """
    top = TopPatches(record)
    return {
        "name": name_of(record.run),
        "has_view": (record.run / VIEW_FOLDER / "index.html").is_file(),
        "sections": SECTIONS,
        "boxes": _boxes(record),
        "warnings": warnings_of(record),
        "rounds": _rounds(record),
        "knows_truth": record.knows_truth,
        "knows_mimics": record.study.cohort.mimics is not None,
        "chosen": record.chosen,
        "gain": record.gain,
        "metrics": _metrics(record.metrics, record.knows_truth),
        "beside": _beside(record.metrics or {}),
        "context": (record.metrics or {}).get("context"),
        "pictures": pictures,
        "table": slide_table(record, heatmaps, set(embedded)),
        "heatmaps": [_card(record, slide, heatmaps[slide], top) for slide in embedded],
        "num_without_heatmap": num_scored - len(embedded),
        "patch_threshold": record.chosen_patch_threshold,
        "settings": settings_of(record.config),
        "facts": _environment(record),
    }


def slides_in_order(record: RunRecord) -> list[int]:
    """Return the scored slides: those of the judged split first, wrong ones before right ones, then the others."""
    split, _ = record.judged
    rank = {split: 0, "validation": 1, "train": 2, "test": 3} | {split: 0}
    scored = np.flatnonzero(np.isfinite(record.by_slide))
    right = (record.by_slide >= record.threshold) == (record.study.labels == 1)
    return sorted(scored.tolist(), key=lambda slide: (rank.get(str(record.split_of[slide]), 4), bool(right[slide]), slide))


def _boxes(record: RunRecord) -> list[Box]:
    split, slides = record.judged
    labels = record.study.labels[slides]
    measured = record.metrics or {}
    figures = measured.get("slide") or record.decisions[record.chosen]["validation"]
    interval = interval_lines(measured.get("slide_auc_interval"), interval_remark(measured))
    seconds = sum(phase["seconds"] for phase in record.state["phases"])
    policy = f"{policy_in_words(record.config.evaluate.threshold)}, validation"
    return [
        *_patient_boxes(measured),
        (digits(figures["auc"]), [f"slide AUC, {split}", *interval]),
        (digits(figures["balanced_accuracy"]), ["balanced accuracy", f"at {record.threshold:.3f}", policy]),
        (f"{digits(figures['sensitivity'])} / {digits(figures['specificity'])}", ["sensitivity / specificity"]),
        *_predictive_boxes(measured),
        (f"{record.chosen}", ["chosen round", f"of {record.num_rounds - 1}"]),
        (f"{len(slides)}", [f"{split} slides", f"{(labels == 1).sum()} positive, {(labels == 0).sum()} negative"]),
        (f"{record.study.cohort.num_patches:,}", ["patches of", f"{record.study.cohort.num_slides:,} slides"]),
        (duration(seconds), ["computing"]),
    ]


def _patient_boxes(metrics: Mapping[str, Any]) -> list[Box]:
    """Return the headline of a cohort whose patients have several slides; nothing of others."""
    if (figures := metrics.get("patient")) is None:
        return []
    interval = interval_lines(metrics["patient_intervals"]["auc"], interval_remark(metrics))
    told = f"{metrics['num_test_patients']} patients, {metrics['patient_score']} of their slides"
    return [(digits(figures["auc"]), ["patient AUC, test: the headline", told, *interval])]


def _predictive_boxes(metrics: Mapping[str, Any]) -> list[Box]:
    """Return PPV and NPV at the stated prevalence, else at the test slides' own; nothing before the evaluation."""
    told = calls_told(dict(metrics))[-2:]
    return [(" / ".join(digits(value) for _, value, _ in told), ["PPV / NPV", told[-1][0].removeprefix("NPV ")])] if told else []


def _rounds(record: RunRecord) -> list[dict[str, Any]]:
    """Return what mining.json says of each round, with its number and the seconds of its phases."""
    phases = record.state["phases"]
    return [
        {
            **decision,
            "number": number,
            "seconds": sum(phase["seconds"] for phase in phases if phase["round"] == number),
        }
        for number, decision in enumerate(record.decisions)
    ]


def _metrics(metrics: Mapping[str, Any] | None, knows_truth: bool) -> dict[str, str] | None:
    if metrics is None:
        return None
    flat = flatten({name: value for name, value in metrics.items() if knows_truth or name not in OF_TRUTH})
    return {name: digits(value) for name, value in flat.items() if not isinstance(value, list | dict)}


def _beside(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for the run and for each baseline fitted on its first features; none for a run of before 2026-11-28."""
    methods: Mapping[str, Any] = (metrics.get("baselines") or {}).get("methods", {})
    if not methods:
        return []
    context, instance = metrics.get("context") or {}, metrics.get("instance") or {}
    ours = {"name": "this run", "slide_auc": metrics["slide"]["auc"], "run_minus_it": None, "instance_auc": instance.get("auc")}
    ours |= {"without": context.get("slide_auc_without_positive_patches"), "validation_auc": metrics["validation"]["auc"]}
    theirs = [{**its, "name": name, "without": its["slide_auc_without_positive_patches"]} for name, its in methods.items()]
    return [ours, *theirs]


def _card(record: RunRecord, slide: int, path: Path, top: TopPatches) -> HeatmapCard:
    slide_id, label = str(record.study.cohort.slide_ids[slide]), int(record.study.labels[slide])
    return HeatmapCard(
        path=path,
        href=link_to(path, record.run),
        key=slide_key(slide_id),
        slide_id=slide_id,
        split=str(record.split_of[slide]),
        label=str(label) if label >= 0 else "?",
        score=float(record.by_slide[slide]),
        patches=[(patch, patch.place(record.run)) for patch in top.of_slide(slide, NUM_IN_PAGE)],
    )


def _environment(record: RunRecord) -> dict[str, str]:
    facts = {
        **record.environment,
        "run directory": str(record.run.resolve()),
        "cohort": record.state["cohort"],
        "fingerprint of the cohort": record.state["fingerprint"],
    }
    return {key: json.dumps(value) if isinstance(value, dict) else str(value) for key, value in facts.items()}
