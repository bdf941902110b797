"""The pages of a cross-validation: OUT/report.html of all folds, and each fold's own (`hnm crossval --reports`).

Either is made from files alone, by `hnm crossval` or later by `hnm report`.
"""

import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hnm.config import read_config
from hnm.evidence.crossval import figures_of_run, means_of, summarise
from hnm.evidence.evaluate import read_metrics
from hnm.report.crossval_report import CrossvalRecord, make_crossval_report
from hnm.run.tracking import Tracker
from hnm.run.tracking_run import files_of_run
from launch.process.run_directory import read_run
from launch.process.status import read_status
from launch.verbs.crossval_folder import Fold, read_record, run_folder
from launch.verbs.report import report
from shards.errors import InputError

# of a cross-validation, on the screen
SHOWN = ("slide auc", "slide auprc", "slide accuracy", "slide balanced_accuracy", "slide f1", "slide brier",
         "patient auc", "patient balanced_accuracy",
         "instance auc", "instance in_positive_auc", "froc score")  # fmt: skip


def read_crossval(out: Path) -> CrossvalRecord:
    """Read a cross-validation: what its folds say together or, while some are missing, what those say that are done.

    Raises:
        InputError: it is none, no fold is done, or all are and nobody has joined them yet.
    """
    facts, runs = read_record(out), runs_of(out)
    done = {key: run for key, run in runs.items() if (run / "metrics.json").is_file()}
    missing = [f"repeat {repeat}, fold {fold}" for repeat, fold in runs if (repeat, fold) not in done]
    again = f"Run the same hnm crossval again; hnm status {out} says where each is"
    if not done:
        raise InputError(f"{out}: none of {len(runs)} folds is done. {again}")
    slide_ids = pq.read_table(out / "cohort" / "slides.parquet", columns=["slide_id"])["slide_id"].to_numpy()
    config = read_config(out / "config.yaml")
    if missing:
        metrics, predictions = summarise(done, facts["folds"], config.seed)
        return CrossvalRecord(out, config, facts, metrics, predictions, done, slide_ids, missing)
    joined = [out / name for name in ("metrics.json", "predictions.parquet")]
    if not all(path.is_file() for path in joined) or len((metrics := read_metrics(out))["folds"]) != len(runs):
        raise InputError(f"{out}: all folds are done, but metrics.json is not of all of them yet. {again}")
    return CrossvalRecord(out, config, facts, metrics, pq.read_table(joined[1]), runs, slide_ids)


def runs_of(out: Path) -> dict[Fold, Path]:
    """Return the run directory of each fold, there or not."""
    facts = read_record(out)
    return {(r, f): run_folder(out, (r, f)) for r in range(facts["repeats"]) for f in range(facts["folds"])}


def report_crossval(out: Path) -> int:
    """Draw the pictures of a cross-validation and write OUT/report.html; of the folds that are done, if some are not."""
    record = read_crossval(out)
    page = make_crossval_report(record)
    if record.missing:
        print(f"{len(record.runs)} of {len(record.runs) + len(record.missing)} folds are done: {means_in_words(record.metrics)}")
    print(f"wrote {page}: open it in a browser; its pictures are in {out / 'figures'}")
    return 0


def means_in_words(metrics: dict[str, Any]) -> str:
    """Return the means over the folds that are there, with their intervals, in a line."""
    told = []
    for name in SHOWN:
        if (figure := metrics["mean"].get(name)) is not None:
            interval = "" if figure["low"] is None else f" ({figure['low']:.3f} to {figure['high']:.3f})"
            told.append(f"{name.replace('_', ' ')} {figure['mean']:.3f}{interval}")
    return "; ".join(told) or "no figure is defined"


def write_fold_page(run: Path) -> None:
    """Write an evaluated fold's own page, and store it with the fold's MLflow run.

    Heatmaps are drawn of its test slides only: of each slide one in a repeat, by the model that did not see it.
    """
    config, _ = read_run(run)
    report(run, None, max_heatmaps=read_metrics(run)["num_test_slides"])
    Tracker(run, config.tracking, {}).finish("FINISHED", files_of_run(run))


def lines_of_folds(out: Path) -> tuple[list[str], bool]:
    """Return a line for each fold, done or not, and whether one has failed or fallen silent.

    Raises:
        InputError: no cross-validation.
    """
    lines, is_bad, done, runs = [], False, {}, runs_of(out)
    for key, run in runs.items():
        sentence = "not begun"
        if (run / "metrics.json").is_file():
            done[key], sentence = run, "done"
        elif (run / "state.json").is_file():
            status = read_status(run, time.time())
            sentence, is_bad = status.sentence, is_bad or status.word in ("failed", "silent")
        lines.append(f"repeat {key[0]}, fold {key[1]}: {sentence}")
    joined = f"; the result is in {out / 'metrics.json'}" if len(done) == len(runs) and (out / "metrics.json").is_file() else ""
    if 0 < len(done) < len(runs):
        num_folds = read_record(out)["folds"]
        means = {"mean": means_of([figures_of_run(read_metrics(run)) for run in done.values()], num_folds)}
        lines.append(f"so far, mean over those done: {means_in_words(means)}. hnm report {out} draws them")
    return [f"{len(done)} of {len(runs)} folds are done{joined}", *lines], is_bad

