"""run/report.html: one self-contained page to look at before believing a run. It opens from a file and asks no network.

RunRecord ──▶ figures/*.png, figures/heatmaps/*.jpg ──▶ report.html: summary, warnings, rounds, pictures, slides,
                                                        heatmaps, configuration, environment
"""

import base64
import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hnm.config import Config, flatten
from hnm.pictures import Picture, draw_heatmaps, draw_pictures
from hnm.record import RunRecord
from hnm.report_slides import SCRIPT, slide_table
from hnm.run_warnings import warnings_of
from shards.files import whole_file
from shards.reader import PatchReader
from shards.slides import slide_key
from shards.tiling_page import STYLE

REPORT_FILE = "report.html"
PRIVATE = ("tracking.uri", "reader.storage_options")  # may hold a password
MAX_EMBEDDED = 120  # heatmaps in the page itself, 40 kB each: it stays below 10 MB; the others are linked

Progress = Callable[[Iterable[int], str, int], Iterable[int]]


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
    parts = [
        _head(record),
        _warnings(warnings_of(record)),
        _rounds(record),
        _metrics(record.metrics),
        "<h2 id=pictures>Pictures</h2>" + "".join(_picture(picture) for picture in pictures),
        slide_table(record, heatmaps, set(embedded)),
        _heatmaps(record, {slide: heatmaps[slide] for slide in embedded}, len(order)),
        _settings(record.config),
        _environment(record),
        SCRIPT,
    ]
    page = record.run / REPORT_FILE
    with whole_file(page) as temporary:
        temporary.write_text("\n".join([_opening(record), *parts, ""]), encoding="utf-8")
    return page


def slides_in_order(record: RunRecord) -> list[int]:
    """Return the scored slides: those of the judged split first, wrong ones before right ones, then the others."""
    split, _ = record.judged
    rank = {split: 0, "validation": 1, "train": 2, "test": 3} | {split: 0}
    scored = np.flatnonzero(np.isfinite(record.by_slide))
    right = (record.by_slide >= record.threshold) == (record.study.labels == 1)
    return sorted(scored.tolist(), key=lambda slide: (rank.get(str(record.split_of[slide]), 4), bool(right[slide]), slide))


def _opening(record: RunRecord) -> str:
    return (
        "<!doctype html>\n<html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<link rel=icon href='data:,'><title>{_name(record)}: report</title>\n{STYLE}\n{OWN_STYLE}"
    )


def _name(record: RunRecord) -> str:
    run = record.run.resolve()
    return html.escape(f"{run.parent.name}/{run.name}")


def _head(record: RunRecord) -> str:
    split, slides = record.judged
    labels = record.study.labels[slides]
    measured = record.metrics or {}
    figures = measured.get("slide") or record.decisions[record.chosen]["validation"]
    interval = measured.get("slide_auc_interval") or {}
    low = interval.get("low")
    auc = f"slide AUC, {split}" + (f"<br>95 %: {low:.3f} to {interval['high']:.3f}" if low is not None else "")
    seconds = sum(phase["seconds"] for phase in record.state["phases"])
    boxes = [
        (_number(figures["auc"]), auc),
        (_number(figures["balanced_accuracy"]), f"balanced accuracy<br>at {record.threshold:.3f}"),
        (
            f"{_number(figures['sensitivity'])} / {_number(figures['specificity'])}",
            "sensitivity / specificity",
        ),
        (f"{record.chosen}", f"chosen round<br>of {record.num_rounds - 1}"),
        (f"{len(slides)}", f"{split} slides<br>{(labels == 1).sum()} positive, {(labels == 0).sum()} negative"),
        (f"{record.study.cohort.num_patches:,}", f"patches of<br>{record.study.cohort.num_slides:,} slides"),
        (_duration(seconds), "computing"),
    ]
    links = (
        ("rounds", "rounds"), ("metrics", "metrics"), ("pictures", "pictures"), ("slides", "slides"),
        ("heatmaps", "heatmaps"), ("configuration", "configuration"), ("environment", "environment"),
    )  # fmt: skip
    return (
        f"<h1>{_name(record)}</h1>"
        f"<nav>{' · '.join(f'<a href=#{target}>{text}</a>' for target, text in links)}</nav>"
        "<div class=figures>"
        + "".join(f"<div><b>{value}</b><span>{text}</span></div>" for value, text in boxes)
        + "</div>"
        "<p>A patch encoder and a slide classifier, learned from slide labels alone. Round and threshold were chosen on "
        "validation slides. For research; not for diagnosis."
    )


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return (
            "<h2 id=warnings>Warnings</h2><p>None: no slide was dropped, no patch was unreadable, no slide stands out."
        )
    items = "".join(f"<li>{html.escape(text)}" for text in warnings)
    return f"<h2 id=warnings>Warnings ({len(warnings)})</h2><ul class=warnings>{items}</ul>"


def _rounds(record: RunRecord) -> str:
    heads = (
        "round", "validation AUC", "F1", "loss", "patch AUC", "hard negatives", "candidates", "self-paced",
        "witness rate, self-paced", "witness rate, candidates", "labels", "seconds",
    )  # fmt: skip
    rows = ""
    for number, decision in enumerate(record.decisions):
        validation = decision["validation"]
        seconds = sum(phase["seconds"] for phase in record.state["phases"] if phase["round"] == number)
        cells = (
            f"{number}{' (chosen)' if number == record.chosen else ''}",
            *(_number(validation[name]) for name in ("auc", "f1", "loss")),
            _number(decision["validation_instance_auc"]),
            *(f"{decision[name]:,}" for name in ("num_hard_negatives", "num_candidates", "num_self_paced")),
            _number(decision["witness_rate_self_paced"]),
            _number(decision["witness_rate_candidates"]),
            "kept" if decision["kept_labels_of_previous_round"] else "new",
            f"{seconds:,.0f}",
        )
        rows += f"<tr{' class=chosen' if number == record.chosen else ''}><td>{'<td>'.join(cells)}"
    return (
        f"<h2 id=rounds>Rounds</h2><div class=scroll><table class=wide><tr><th>{'<th>'.join(heads)}{rows}</table></div>"
        "<p class=note>Validation slides. Witness rate: share of the mined positives that are truly positive, where patch "
        "truth is known; nothing is chosen by it. Labels: kept = the aggregator was no better, the labels before stayed."
    )


def _metrics(metrics: Mapping[str, Any] | None) -> str:
    if metrics is None:
        return "<h2 id=metrics>Metrics</h2><p>The test split has not been read. Next: <code>hnm evaluate</code>."
    flat = {name: value for name, value in flatten(dict(metrics)).items() if not isinstance(value, list | dict)}
    rows = "".join(f"<tr><td>{html.escape(name)}<td>{_number(value)}" for name, value in flat.items())
    return (
        "<h2 id=metrics>Metrics</h2><details><summary>metrics.json, all figures of the test split</summary>"
        f"<table>{rows}</table></details>"
    )


def _picture(picture: Picture) -> str:
    heading = f"<h3 id={picture.name}>{picture.title}</h3>"
    if picture.path is None:
        return f"{heading}<p class=missing>Not drawn: {html.escape(picture.reason)}."
    alt = html.escape(picture.title, quote=True)
    image = f"<img class=picture alt='{alt}' src='{_embedded(picture.path)}'>"
    return f"{heading}<p class=note>{html.escape(picture.caption)}<div class=scroll>{image}</div>"


def _heatmaps(record: RunRecord, paths: Mapping[int, Path], num_scored: int) -> str:
    if not paths:
        return "<h2 id=heatmaps>Heatmaps</h2><p>None were drawn (hnm report --heatmaps N)."
    cards = ""
    for slide, path in paths.items():
        slide_id, label = str(record.study.cohort.slide_ids[slide]), int(record.study.labels[slide])
        cards += (
            f"<figure id='heatmap-{slide_key(slide_id)}'><a href='figures/heatmaps/{path.name}'>"
            f"<img decoding=async alt='heatmap of {html.escape(slide_id, quote=True)}' src='{_embedded(path)}'></a>"
            f"<figcaption><b>{html.escape(slide_id)}</b> · {record.split_of[slide]} · label {label if label >= 0 else '?'} · "
            f"score {record.by_slide[slide]:.3f} · <a href=#slides>table</a></figcaption></figure>"
        )
    rest = f"; {num_scored - len(paths):,} more slides have none in this page" if num_scored > len(paths) else ""
    return (
        "<h2 id=heatmaps>Heatmaps</h2><p>Patch scores over the slide: blue below the patch threshold "
        f"({record.patch_threshold:.3g}), orange above; a black line around what is called positive, a yellow one around what "
        f"is truly positive, where it is known. {len(paths)} slides{rest}.<div class=gallery>{cards}</div>"
    )


def _settings(config: Config) -> str:
    default, given = flatten(Config().model_dump(mode="json")), flatten(config.model_dump(mode="json"))
    rows = "".join(
        f"<tr{' class=changed' if default.get(key) != value else ''}><td>{html.escape(key)}<td>{html.escape(str(value))}"
        for key, value in given.items()
        if not key.startswith(PRIVATE)
    )
    return (
        "<h2 id=configuration>Configuration</h2><details><summary>config.yaml; bold: not the default</summary>"
        f"<table>{rows}</table></details>"
    )


def _environment(record: RunRecord) -> str:
    facts = {
        **record.environment,
        "run directory": str(record.run.resolve()),
        "cohort": record.state["cohort"],
        "fingerprint of the cohort": record.state["fingerprint"],
    }
    rows = "".join(
        f"<tr><td>{html.escape(key)}<td>{html.escape(json.dumps(value) if isinstance(value, dict) else str(value))}"
        for key, value in facts.items()
    )
    return f"<h2 id=environment>Environment</h2><div class=scroll><table>{rows}</table></div>"


def _embedded(path: Path) -> str:
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _number(value: Any) -> str:
    if value is None:
        return "not defined"
    return f"{value:.3f}" if isinstance(value, float) else html.escape(str(value))


def _duration(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


OWN_STYLE = """<style>
h3{font-size:1em;margin:1.4em 0 .2em}nav{margin:.2em 0 1em}code{background:#f3f5f7;padding:.1em .3em}
.note{color:#59636e;margin:.2em 0 .5em}.missing{color:#7a5600;background:#fff1d6;padding:.5em .8em;border-radius:8px}
ul.warnings{background:#fff1d6;border-radius:8px;padding:.7em 1em .7em 2em;overflow-wrap:anywhere}
.scroll{overflow-x:auto}table.wide td,table.wide th{white-space:nowrap}
table.wide th{vertical-align:bottom}#rounds+.scroll th{white-space:normal}
table.wide td:last-child{white-space:normal;min-width:12em}
th button{font:inherit;font-weight:bold;background:none;border:0;padding:0;cursor:pointer;color:inherit}
th button::after{content:" \\2195";color:#9aa4ae}th[aria-sort=ascending] button::after{content:" \\2191";color:#1b1f24}
th[aria-sort=descending] button::after{content:" \\2193";color:#1b1f24}
tr.chosen td{background:#eaf3fb}tr.changed td{font-weight:bold}
.filters label{margin-right:1em;display:inline-block}.filters input,.filters select{font:inherit;padding:.15em .4em}
.wrong{color:#a8480a;font-weight:bold}.none{color:#9aa4ae}
.bar{display:inline-block;min-width:7em;padding:0 .3em}
.bar{background:linear-gradient(var(--c),var(--c)) 0/var(--share) no-repeat #f3f5f7}
.bar.low{--c:#a9cfe6}.bar.high{--c:#f3b98f}
img.picture{min-width:700px;width:100%;margin:0}
figure:target{outline:3px solid #E69F00}
.figures b{white-space:nowrap}
@media(max-width:600px){body{margin:1em auto;font-size:14px}.figures div{padding:.4em .7em}}
</style>"""
