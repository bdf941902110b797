"""Where a cross-validation is, fold by fold, from its files alone: part of `hnm status`."""

import time
from pathlib import Path

from launch.crossval_folder import read_record, run_folder
from launch.status import read_status


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
