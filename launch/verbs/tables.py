"""What the verbs print at their end."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hnm.evidence.calls import calls_told
from hnm.statistics.thresholds import policy_in_words
from hnm.statistics.zero_width import interval_remark, warnings_told
from shards.cohort.split_counts import split_lines, split_warnings
from shards.tiling.tile_summary import TileSummary

CLASS_FIGURES = ("macro_auc", "balanced_accuracy", "accuracy", "kappa", "brier")


def tile_lines(summary: TileSummary, cohort: Path) -> list[str]:
    """Return the summary of a tiling, line by line; everything that was left out is in it."""
    return [*counts_lines(summary, cohort), f"Look at {cohort / 'tiling.html'}. Next: hnm pretrain {cohort} pretrained/"]


def counts_lines(summary: TileSummary, cohort: Path) -> list[str]:
    """Return what became of the slides, line by line."""
    known = f", {summary.num_positive_patches:,} of them known to be positive"
    is_known = bool(summary.num_known_patches or summary.num_positive_patches)
    lines = [
        f"{cohort}: {summary.num_slides} slides: {summary.num_done} done, {summary.num_empty} empty, "
        f"{summary.num_failed} failed; {summary.num_tiled} tiled now, the others were there",
        f"{summary.num_patches:,} patches{known if is_known else ''}",
    ]
    if summary.num_mimics is not None:
        lines.append(f"{summary.num_mimics:,} patches known to look like a tumour and to be none (tile.mimic_groups)")
    lines += [f"{number:,} {text}" for number, text in _left_out(summary) if number]
    lines += summary.tissue
    lines += summary.annotations.lines()
    if summary.mixed_mpp:
        lines.append(
            "warning: native pixels of slides with different microns per pixel: set tile.mpp to make them alike"
        )
    if against := summary.contradicted_mpp:
        some = "; ".join(f"{slide_id}: {text}" for slide_id, text in list(against.items())[:3])
        more = " ..." if len(against) > 3 else ""
        lines.append(f"warning: microns per pixel: of {len(against):,} slides the table's were taken ({some}{more})")
    lines += [f"warning: {outlier}. Look at it in tiling.html" for outlier in summary.outliers]
    if summary.split_drawn:
        how = "by patient" if summary.patients_known else "slide by slide, for the table names no patients"
        how = "by site, none of which is in two" if summary.split_by == "site" else how
        lines.append(f"the table has no split column: train, validation and test were drawn {how} (tile.split_seed)")
    lines += [*split_lines(summary.splits), *(f"warning: {text}" for text in split_warnings(summary.splits))]
    return lines + [f"  {slide_id}: {reason}" for slide_id, reason in (summary.failures | summary.empties).items()]


def _left_out(summary: TileSummary) -> list[tuple[int, str]]:
    return [
        (summary.num_points_outside, "points without a patch of their own, or coordinates (at the rim, or doubled)"),
        (summary.num_points_unmatched, "points of images that are no slide of the table"),
        (summary.num_background, "patches left out as background"),
        (summary.num_outlines_repaired, "annotated outlines crossed themselves and were repaired"),
        (summary.num_outlines_left_out, "annotated outlines of fewer than three vertices, or without an area, left out"),
        (summary.num_assumed_mpp, "slides whose microns per pixel are assumed (--assume-mpp)"),
        (
            summary.num_in_qupath_frame,
            "slides whose scan begins inside level 0 (openslide.bounds): annotations and points are taken to count from the "
            "scan's corner, as QuPath's do; if they count from level 0's, as ASAP's do: tile.annotation_frame=level0",
        ),
        (
            summary.num_in_level0_frame,
            "slides whose scan begins inside level 0 (openslide.bounds): annotations and points are taken to count from the "
            "corner of level 0; QuPath's do not (tile.annotation_frame=qupath)",
        ),
        (summary.num_unlabelled, "slides without a label"),
    ]


def print_metrics(metrics: dict[str, Any]) -> None:
    """Print the test metrics and the course of the rounds."""
    console = Console(highlight=False)
    if "targets" in metrics:
        console.print(_targets_table(metrics))
        _print_classes(metrics.get("classes"), console)
        for name, its in metrics["targets"].items():
            for warning in its.get("warnings", []):
                console.print(f"warning: {name}: {warning}", markup=False, soft_wrap=True)
        return
    console.print(_test_table(metrics))
    console.print(_rounds_table(metrics))
    if (gain := metrics.get("gain")) is not None:
        console.print(gain["says"], markup=False, soft_wrap=True)
    for warning in warnings_told(metrics):
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)


def _targets_table(metrics: dict[str, Any]) -> Table:
    round_ = metrics["chosen_round"]
    table = Table(title=f"test split, {metrics['num_test_slides']} slides, round {round_} (chosen on validation)")
    for heading in ("target", "slides", "slide AUC", "95 % interval", "AUPRC", "balanced accuracy", "threshold"):
        table.add_column(heading, justify="left" if heading == "target" else "right")
    for name, its in metrics["targets"].items():
        interval, slide = its["slide_auc_interval"], its["slide"]
        ends = "unknown" if interval["low"] is None else f"{_figure(interval['low'])} to {_figure(interval['high'])}"
        figures = (_figure(slide["auprc"]), _figure(slide["balanced_accuracy"]), _figure(its["threshold"]))
        table.add_row(name, str(its["num_test_slides"]), _figure(slide["auc"]), ends, *figures)
    return table


def _print_classes(classes: dict[str, Any] | None, console: Console) -> None:
    if classes is None:
        return
    table = Table(title=f"classes, called by {classes['called_by']} (chosen on validation)")
    table.add_column("slides of")
    for name in ("AUC", *(f"called {name}" for name in classes["names"])):
        table.add_column(name, justify="right")
    for name, row in zip(classes["names"], classes["confusion"], strict=True):
        table.add_row(name, _figure(classes["auc"][name]), *map(str, row))
    console.print(table)
    figures = ", ".join(f"{name.replace('_', ' ')} {_figure(classes[name])}" for name in CLASS_FIGURES)
    console.print(figures, markup=False, soft_wrap=True)


def _test_table(metrics: dict[str, Any]) -> Table:
    table = Table(
        title=f"test split, {metrics['num_test_slides']} slides, round {metrics['chosen_round']} (chosen on validation)"
    )
    table.add_column("metric")
    table.add_column("value", justify="right")
    slide = metrics["slide"]
    few = interval_remark(metrics)
    _add_patients(table, metrics, few)
    table.add_row("slide AUC", _figure(slide["auc"]))
    _add_interval(table, metrics["slide_auc_interval"], few)
    if (without := metrics.get("slide_without_missed")) is not None:
        missed = metrics["without_patch"]["missed"]
        table.add_row(f"  without the {missed} positive ones without tissue", _figure(without["auc"]))
    table.add_row("slide AUPRC", _figure(slide.get("auprc")))
    if policy := metrics.get("threshold_policy"):
        table.add_row(f"threshold, {policy_in_words(policy)} on validation", f"{metrics['threshold']:.3f}")
    for name in ("accuracy", "balanced accuracy", "f1", "sensitivity", "specificity"):
        table.add_row(f"slide {name} at {metrics['threshold']:.3f}", _figure(slide.get(name.replace(" ", "_"))))
    for words, value, interval in calls_told(metrics):
        table.add_row(words, _figure(value))
        _add_interval(table, interval, few)
    table.add_row("slide Brier score", _figure(slide.get("brier")))
    froc, instance = metrics.get("froc"), metrics["instance"]
    if froc is not None and (froc["score"] is not None or instance is not None):  # without annotations nothing can be found
        table.add_row(f"FROC of {froc['num_lesions']} lesions ({', '.join(froc['lesions_from'])})", _figure(froc["score"]))
        if isolated := froc.get("num_isolated_left_out"):
            table.add_row("  isolated tumour cells left out", f"{isolated:,}")
    if instance is not None:
        for name, value in instance.items():
            if name.endswith(("auc", "auprc", "f1")):
                table.add_row(f"instance {name}", _figure(value))
                if name.endswith("auc"):
                    _add_interval(table, instance.get("intervals", {}).get(name), few)
    _add_beside(table, metrics)
    return table


def _add_patients(table: Table, metrics: dict[str, Any], few: str) -> None:
    """Add the figures of patients, where some have several slides: then they are the headline."""
    if (figures := metrics.get("patient")) is None:
        return
    table.add_row(f"patient AUC ({metrics['num_test_patients']} patients, {metrics['patient_score']} of their slides): headline",
                  _figure(figures["auc"]))  # fmt: skip
    _add_interval(table, metrics["patient_intervals"]["auc"], few)
    for name in ("balanced accuracy", "sensitivity", "specificity"):
        table.add_row(f"patient {name} at {metrics['patient_threshold']:.3f}", _figure(figures[name.replace(" ", "_")]))


def _add_beside(table: Table, metrics: dict[str, Any]) -> None:
    """Add what context alone gives, and the baselines on the first features; a run of before 2026-11-28 has neither."""
    if (context := metrics.get("context")) is not None:
        told = f"slide AUC without positive patches ({context['num_slides']} slides)"
        table.add_row(told, _figure(context["slide_auc_without_positive_patches"]))
    for name, its in ((metrics.get("baselines") or {}).get("methods", {})).items():
        table.add_row(f"baseline {name}: slide AUC", _figure(its["slide_auc"]))
        _add_interval(table, its["run_minus_it"], "of the run minus it")


def _add_interval(table: Table, interval: dict[str, Any] | None, few: str) -> None:
    if interval is not None and interval["low"] is not None:
        ends = f"{_figure(interval['low'])} to {_figure(interval['high'])}"
        table.add_row("  95 % interval" + (f" {few}" if few else ""), ends)


def _rounds_table(metrics: dict[str, Any]) -> Table:
    knows_mimics = any("mimic_share_hard_negatives" in row for row in metrics["rounds"])
    knows_auc = any(row["validation_instance_auc"] is not None for row in metrics["rounds"])
    knows_rate = any(row["witness_rate_self_paced"] is not None for row in metrics["rounds"])
    title = "rounds, validation slides" + "; witness rate: of the self-paced positives" * knows_rate
    table = Table(title=title + "; mimics: of the hard negatives" * knows_mimics)
    headings = ["round", "slide AUC", *["patch AUC"] * knows_auc, "hard negatives", "candidates", *["witness rate"] * knows_rate]
    for heading in headings + ["mimics"] * knows_mimics:
        table.add_column(heading, justify="right")
    for row in metrics["rounds"]:
        mark = " *" if row["round"] == metrics["chosen_round"] else ""
        table.add_row(
            f"{row['round']}{mark}",
            _figure(row["validation_auc"]),
            *([_figure(row["validation_instance_auc"])] if knows_auc else []),
            f"{row['num_hard_negatives']:,}",
            f"{row['num_candidates']:,}",
            *([_figure(row["witness_rate_self_paced"])] if knows_rate else []),
            *([_figure(row.get("mimic_share_hard_negatives"))] if knows_mimics else []),
        )
    return table


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
