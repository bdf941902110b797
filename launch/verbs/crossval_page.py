"""The pages of a cross-validation: OUT/report.html of all folds, and each fold's own (`hnm crossval --reports`).

Either is made from files alone, by `hnm crossval` or later by `hnm report`.
"""

import time
from pathlib import Path

import pyarrow.parquet as pq

from hnm.config import read_config
from hnm.evidence.evaluate import read_metrics
from hnm.report.crossval_report import CrossvalRecord, make_crossval_report
from hnm.run.tracking import Tracker
from hnm.run.tracking_run import files_of_run
from launch.process.run_directory import read_run
from launch.process.status import read_status
from launch.verbs.crossval_folder import read_record, run_folder
from launch.verbs.report import report
from shards.errors import InputError

MAX_NAMED = 5  # folds that an error names


def read_joined(out: Path) -> CrossvalRecord:
    """Read a cross-validation of which all folds are there, and joined.

    Raises:
        InputError: it is none, or folds are missing, or nobody has joined them yet.
    """
    facts = read_record(out)
    runs = {(r, f): run_folder(out, (r, f)) for r in range(facts["repeats"]) for f in range(facts["folds"])}
    missing = [
        f"repeat {repeat}, fold {fold}" for (repeat, fold), run in runs.items() if not (run / "metrics.json").is_file()
    ]
    again = f"Run the same hnm crossval again; hnm status {out} says where each is"
    if missing:
        named = "; ".join(missing[:MAX_NAMED]) + (" ..." if len(missing) > MAX_NAMED else "")
        raise InputError(f"{out}: {len(missing)} of {len(runs)} folds are not done ({named}). {again}")
    joined = [out / name for name in ("metrics.json", "predictions.parquet")]
    if not all(path.is_file() for path in joined) or len((metrics := read_metrics(out))["folds"]) != len(runs):
        raise InputError(f"{out}: all folds are done, but metrics.json is not of all of them yet. {again}")
    slide_ids = pq.read_table(out / "cohort" / "slides.parquet", columns=["slide_id"])["slide_id"].to_numpy()
    config = read_config(out / "config.yaml")
    return CrossvalRecord(out, config, facts, metrics, pq.read_table(joined[1]), runs, slide_ids)


def report_crossval(out: Path) -> int:
    """Draw the pictures of a cross-validation and write OUT/report.html."""
    page = make_crossval_report(read_joined(out))
    print(f"wrote {page}: open it in a browser; its pictures are in {out / 'figures'}")
    return 0


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
    record = read_record(out)
    lines, is_bad, num_done = [], False, 0
    keys = [(repeat, fold) for repeat in range(record["repeats"]) for fold in range(record["folds"])]
    for key in keys:
        run, sentence = run_folder(out, key), "not begun"
        if (run / "metrics.json").is_file():
            num_done, sentence = num_done + 1, "done"
        elif (run / "state.json").is_file():
            status = read_status(run, time.time())
            sentence, is_bad = status.sentence, is_bad or status.word in ("failed", "silent")
        lines.append(f"repeat {key[0]}, fold {key[1]}: {sentence}")
    joined = f"; the result is in {out / 'metrics.json'}" if num_done == len(keys) and (out / "metrics.json").is_file() else ""
    return [f"{num_done} of {len(keys)} folds are done{joined}", *lines], is_bad

