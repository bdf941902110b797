"""`hnm compare`: a table of two runs, or of two cross-validations.

    two runs             predictions.parquet, metrics.json ──▶ slides          patch_scores.npy, the cohort ──▶ patches
    two hnm crossval     metrics.json ──▶ means and differences over folds     predictions.parquet ──▶ pooled AUC
"""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hnm.evidence.compare import Tested, compare, delong_warning, read_test_scores, width_warning
from hnm.evidence.compare_crossval import CrossValidated, compare_crossvals, read_crossval
from hnm.evidence.compare_patches import OpenedRun, compare_froc, compare_instance, told_by_metrics
from hnm.evidence.measure import count_patients
from hnm.run.checksums import read_state
from hnm.run.study import open_study
from hnm.statistics.zero_width import few_patients
from launch.process.kinds import refuse_other
from launch.process.run_directory import check_cohort, read_run
from launch.verbs.crossval_folder import is_crossval, read_record
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.files import write_json

SLIDES = ("auc", "auprc", "accuracy", "balanced_accuracy", "f1", "sensitivity", "specificity", "brier")
PATCHES = ("instance auc", "instance auprc", "instance in_positive_auc", "froc score")
SHOWN = (*(f"slide {name}" for name in SLIDES), *PATCHES)
COLUMNS = ("a", "b", "difference")


def run(a: Path, b: Path, json_file: Path | None, cohort: Path | None = None) -> int:
    """Print the comparison of two runs or two cross-validations, and write it to `json_file` if that is given.

    Args:
        a: an evaluated run, or a folder of hnm crossval.
        b: another.
        json_file: what to write, None for nothing.
        cohort: where the cohort of both runs is now; None: where they say it is.

    Raises:
        InputError: they cannot be compared.
    """
    folds = [folder for folder in (a, b) if is_crossval(folder)]
    if len(folds) == 1:
        raise InputError(
            f"{folds[0]} is a cross-validation, the other is not. Give two runs, such as {folds[0] / 'repeat-0' / 'fold-0'}, or "
            "two cross-validations"
        )
    if folds and cohort is not None:
        raise InputError("two cross-validations are compared by what they have written: leave --cohort out")
    console = Console(highlight=False)
    result = _of_crossvals(a, b, console) if folds else _of_runs(a, b, cohort, console)
    if json_file is not None:
        write_json(json_file, result)
        console.print(f"wrote {json_file}", markup=False, soft_wrap=True)
    return 0


def _of_runs(run_a: Path, run_b: Path, cohort: Path | None, console: Console) -> dict[str, Any]:
    for folder in (run_a, run_b):
        refuse_other(folder)
    a, b = read_test_scores(run_a), read_test_scores(run_b)
    result = compare(a, b)
    result["patch_figures"], result["patch_remarks"] = patch_figures(a, b, cohort)
    figures = {f"slide {name}": figure for name, figure in result["figures"].items()} | result["patch_figures"]
    few = few_patients({"patients": count_patients(a.slides.labels, a.slides.patients)})
    title = f"{result['num_slides']} test slides; 95 % intervals by patient{', ' if few else ''}{few}"
    console.print(_table(title, result, figures))
    p = result["delong_p"]
    without = "no DeLong test: it needs at least two positive and two negative test slides"
    lines = [without if p is None else f"DeLong's test of the two AUCs: p = {p:.4g}", *result["patch_remarks"]]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    cause = f"the same in every resample of the {result['num_patients']} patients"
    result["warnings"] = _other_cohort(run_a, run_b) + delong_warning(result) + width_warning(_shown(figures), cause)
    _print_warnings(result, console)
    return result


def patch_figures(a: Tested, b: Tested, moved: Path | None = None) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the patch figures of two runs with all intervals that can be had, and a line for each cause that some cannot.

    Args:
        a: a run.
        b: another.
        moved: where the cohort of both is now; None: where they say it is.

    Raises:
        InputError: their cohort is not in `moved`.
    """
    figures = told_by_metrics(a.metrics, b.metrics)
    if not figures:
        return {}, ["no patch figures: not both runs know any in metrics.json, for want of patch truth"]
    remarks = []
    try:
        opened: dict[Path, Cohort] = {}
        both = [open_patches(its, opened, moved) for its in (a, b)]
        for measure in (compare_instance, compare_froc):
            try:
                figures |= measure(both[0], both[1])
            except InputError as error:
                remarks.append(str(error))
    except InputError as error:
        if moved is not None:
            raise
        remarks.append(str(error))
    return figures, [f"patch figures without an interval of the difference: {remark}" for remark in dict.fromkeys(remarks)]


def open_patches(tested: Tested, opened: dict[Path, Cohort], moved: Path | None) -> OpenedRun:
    """Open the cohort of an evaluated run and its patch scores.

    Args:
        tested: the run.
        opened: cohorts that are open already; this one is added.
        moved: where the cohort is now; None: where the run says it is.

    Raises:
        InputError: the cohort is not there any more, is another, or a file of the run is missing.
    """
    run = tested.slides.folder
    config, recorded = read_run(run)
    root = moved or recorded
    if not (run / "patch_scores.npy").is_file():
        raise InputError(f"{run}: patch_scores.npy is missing, which hnm evaluate writes")
    if root not in opened:
        opened[root] = Cohort.open(root)
    check_cohort(run, opened[root], config.data)
    study = open_study(opened[root], config.data, config.seed, "hnm compare")
    return OpenedRun(run, study, np.load(run / "patch_scores.npy", mmap_mode="r"), tested.metrics)


def _of_crossvals(a: Path, b: Path, console: Console) -> dict[str, Any]:
    first, second = (_open_crossval(folder) for folder in (a, b))
    result = compare_crossvals(first, second)
    folds = f"{result['num_folds']} folds x {result['num_repeats']}, {result['num_slides']} slides"
    console.print(_table(f"{folds}: means, 95 % intervals over folds", result, result["figures"]))
    pooled = result["out_of_fold"]["auc"]
    if pooled["difference"] is not None:
        of_a, of_b, difference = (_with_interval(pooled, which) for which in COLUMNS)
        told = f"A {of_a}, B {of_b}, B - A {difference}"
        console.print(f"AUC of all out-of-fold predictions, by patient: {told}", markup=False, soft_wrap=True)
    result["warnings"] = _other_cohort(a, b) + width_warning(_shown(result["figures"]), "the same in every fold")
    result["warnings"] += width_warning({"AUC of all out-of-fold predictions": pooled}, "the same in every resample of patients")
    _print_warnings(result, console)
    return result


def _open_crossval(folder: Path) -> CrossValidated:
    record = read_record(folder)
    return read_crossval(folder, record["folds"], record["repeats"])


def _other_cohort(a: Path, b: Path) -> list[str]:
    """Return a sentence if two were made with cohorts of the same slide names and other patches."""
    known = [read_state(it) if (it / "state.json").is_file() else {} for it in (a, b)]
    known = [read_record(it) if is_crossval(it) else state for it, state in zip((a, b), known, strict=True)]
    if any("fingerprint" not in it for it in known) or known[0]["fingerprint"] == known[1]["fingerprint"]:
        return []
    cohorts = " and ".join(f"{it['cohort']} (fingerprint {it['fingerprint']})" for it in known)
    return [
        f"the slides have the same names, but were not cut into the same patches: {cohorts}. If that is meant, such as another "
        "magnification, the figures compare what was made of the same slides; if these are other slides, they say nothing."
    ]


def _table(title: str, result: dict[str, Any], figures: dict[str, dict[str, Any]]) -> Table:
    table = Table(title=title)
    table.add_column("figure")
    for heading in (f"A: {Path(result['a']).name}", f"B: {Path(result['b']).name}", "B - A"):
        table.add_column(heading, justify="right")
    for name, figure in _shown(figures).items():
        table.add_row(name, *(_with_interval(figure, which) for which in COLUMNS))
    return table


def _shown(figures: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: figures[name] for name in SHOWN if name in figures}


def _print_warnings(result: dict[str, Any], console: Console) -> None:
    for warning in result["warnings"]:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)


def _with_interval(figure: dict[str, Any], which: str) -> str:
    value, interval = figure[which], figure[f"{which}_interval"]
    if value is None:
        return "unknown"
    if interval["low"] is None:
        return f"{value:.3f}"
    return f"{value:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"
