"""What becomes of a study's folds: each method's joined figures, study.json, study.csv and the page; and how far all has come."""

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hnm.aggregator.bags import features_complete
from hnm.config import read_config
from hnm.evidence.compare_crossval import read_crossval
from hnm.evidence.compare_methods import (
    FIGURES,
    Measured,
    compare_methods,
    count_parameters,
    curve_of_run,
    parameters_of_run,
    prediction_seconds,
    spent_of_run,
)
from hnm.evidence.crossval import summarise, write_predictions
from hnm.evidence.evaluate import read_metrics
from hnm.report.study_report import make_study_report, print_study
from hnm.run.checksums import read_state
from hnm.run_rounds import START_ENCODER
from launch.process.status import read_status
from launch.verbs.crossval_folder import run_folder
from launch.verbs.crossval_folds import site_of_slides
from launch.verbs.study_folder import (
    BASELINE,
    Methods,
    StudyRequest,
    done_cells,
    first_folder,
    method_folder,
    read_plan,
)
from shards.cohort.cohort import FEATURES, Cohort
from shards.errors import InputError
from shards.files import whole_file, write_json


def request_of_plan(out: Path) -> tuple[StudyRequest, Methods]:
    """Return a request that knows where everything of a study lies, from its folder alone."""
    plan, overrides = read_plan(out), []
    if read_config(out / "config.yaml").data.witness_rate is not None:
        overrides = [f"data.witness_rate={read_config(out / 'config.yaml').data.witness_rate}"]
    request = StudyRequest(
        Path(plan["cohort"]), out, "", plan["encoder"], plan["folds"], plan["seeds"], plan["budget"], plan["null"],
        overrides=overrides,
    )  # fmt: skip
    return request, Methods(plan["methods"], plan["baselines"])


def is_joined(out: Path, methods: Methods) -> bool:
    """Is the page there, of all these methods?"""
    if not (out / "study.json").is_file():
        return False
    return methods.names == [row["name"] for row in json.loads((out / "study.json").read_text(encoding="utf-8"))["methods"]]


def finish(out: Path) -> bool:
    """Write what the folds say together and print it, if all are there; else say how many are not, and return False."""
    request, methods = request_of_plan(out)
    done = done_cells(request, methods)
    missing = {name: len(request.keys) - len(keys) for name, keys in done.items() if len(keys) < len(request.keys)}
    total = len(done) * len(request.keys)
    if missing:
        named = ", ".join(f"{name} {number}" for name, number in missing.items())
        print(f"{total - sum(missing.values())} of {total} folds are done; missing: {named}. The same command does the rest")
        return False
    for name in methods.baselines:
        _join_baseline(request, BASELINE + name)
    result = read_study(out)
    write_json(out / "study.json", result)
    with whole_file(out / "study.csv") as temporary:
        temporary.write_text(csv_of(result), encoding="utf-8")
    page = make_study_report(out, result, read_config(out / "config.yaml"))
    print_study(result)
    print(f"wrote {page}: open it in a browser; the figures are in {out / 'study.json'} and {out / 'study.csv'}")
    return True


def _join_baseline(request: StudyRequest, name: str) -> None:
    """Write what the folds of a baseline say together, as `hnm crossval` does of a method."""
    out = method_folder(request.out, name)
    runs = {key: run_folder(out, key) for key in request.keys}
    config = read_config(request.out / "config.yaml")
    site_of = site_of_slides(Cohort.open(request.out / "first" / "cohort"), config)
    result, predictions = summarise(runs, request.num_folds, config.seed, site_of)
    write_predictions(out / "predictions.parquet", predictions)
    write_json(out / "metrics.json", result)


def read_study(out: Path) -> dict[str, Any]:
    """Return what a study says whose folds are all done and joined."""
    request, methods = request_of_plan(out)
    view = Cohort.open(out / "first" / "cohort")
    measured = [_measured(request, name, view) for name in methods.names]
    config = read_config(out / "config.yaml")
    return {"plan": read_plan(out), **compare_methods(measured, config.seed)}


def _measured(request: StudyRequest, name: str, view: Cohort) -> Measured:
    """Read one method's folds."""
    out = method_folder(request.out, name)
    validated = read_crossval(out, request.num_folds, request.seeds)
    runs = {key: run_folder(out, key) for key in request.keys}
    metrics = {key: read_metrics(run) for key, run in runs.items()}
    warnings = sorted({warning for its in metrics.values() for warning in its["warnings"]})
    warnings += read_metrics(out)["interval_warnings"]
    if name.startswith(BASELINE):
        spent = {key: {"seconds": its["seconds"], "steps": 0, "epochs": 0, "rounds": 0} for key, its in metrics.items()}
        curves = {key: [(its["seconds"], its["validation"]["auc"])] for key, its in metrics.items() if its["validation"]["auc"]}
        to_score = 1000 * float(np.mean([its["seconds_per_patch"] for its in metrics.values()]))
        to_embed = _embedding_seconds(request)
        encoder = count_parameters(first_folder(request, request.keys[0]) / START_ENCODER)
        return Measured(
            name, True, validated, spent, None if to_embed is None else to_embed + to_score, encoder, curves, warnings
        )
    num_patches = _num_test_patches(out, view)
    return Measured(
        name, False, validated, {key: spent_of_run(run) for key, run in runs.items()},
        prediction_seconds(list(runs.values()), num_patches), parameters_of_run(runs[request.keys[0]]),
        {key: curve_of_run(run) for key, run in runs.items()}, warnings,
    )  # fmt: skip


def _num_test_patches(out: Path, view: Cohort) -> int:
    """Return how many patches the test slides of all folds of a method have."""
    tested = pq.read_table(out / "predictions.parquet", columns=["slide_id"])["slide_id"].to_numpy()
    number_of = dict(zip(view.slide_ids.tolist(), view.patches_per_slide.tolist(), strict=True))
    return sum(number_of[slide_id] for slide_id in tested.tolist())


def _embedding_seconds(request: StudyRequest) -> float | None:
    """Return the seconds in which the first encoder embedded 1,000 patches; None for given features."""
    state = first_folder(request, request.keys[0]) / "state.json"
    if not state.is_file():
        return None
    (seconds,) = [known["seconds"] for known in read_state(state.parent)["phases"] if known["phase"] == "embed"]
    index = json.loads((state.parent / FEATURES / "index.json").read_text(encoding="utf-8"))
    return 1000 * float(seconds) / sum(index["rows_per_slide"])


def csv_of(result: dict[str, Any]) -> str:
    """Return study.csv: a row per method; differences are to the best baseline of that figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = ("mean", "low", "high")
    headings = [f"{name} {end}" for name in FIGURES for end in ends]
    headings += [f"{name} minus best baseline {end}" for name in result["best_baseline"] for end in ends]
    more = ("seconds", "steps", "epochs", "rounds")
    writer.writerow(["method", "is_baseline", *headings, *more, "seconds_per_1000_patches", "parameters"])
    for row in result["methods"]:
        cells = [row["mean"].get(name, {}).get(end) for name in FIGURES for end in ends]
        cells += [row["difference"].get(name, {}).get(end) for name in result["best_baseline"] for end in ends]
        cells += [row["spent"][name] for name in more]
        writer.writerow([row["name"], int(row["is_baseline"]), *cells, row["seconds_per_1000_patches"], row["parameters"]])
    return text.getvalue()


def report_study(out: Path) -> int:
    """Write the page of a study again.

    Raises:
        InputError: folds are missing.
    """
    if not finish(out):
        raise InputError(f"{out}: the study is not done. hnm status {out} says where each fold is")
    return 0


def lines_of_study(out: Path) -> tuple[list[str], bool]:
    """Return a line for each method, and for each fold that is at work or has ended badly; and whether one has.

    Raises:
        InputError: no study.
    """
    request, methods = request_of_plan(out)
    done, lines, is_bad = done_cells(request, methods), [], False
    firsts = sorted({first_folder(request, key) for key in request.keys})
    if Cohort.open(out / "first" / "cohort").has_pictures:
        there = [folder for folder in firsts if features_complete(folder / FEATURES)]
        lines.append(f"first features: {len(there)} of {len(firsts)} are there")
        at_work = [(folder, *_at_work(folder)) for folder in firsts if folder not in there]
        lines += [f"  {folder.relative_to(out)}: {said}" for folder, said, _ in at_work if said]
        is_bad = any(bad for *_, bad in at_work)
    for name, keys in done.items():
        lines.append(f"{name}: {len(keys)} of {len(request.keys)} folds are done")
        for key in request.keys:
            if key not in keys:
                said, bad = _at_work(run_folder(method_folder(out, name), key))
                is_bad |= bad
                lines += [f"  repeat {key[0]}, fold {key[1]}: {said}"] if said else []
    total, num_done = len(done) * len(request.keys), sum(map(len, done.values()))
    joined = f"; the page is {out / 'study.html'}" if num_done == total and (out / "study.html").is_file() else ""
    return [f"{num_done} of {total} folds are done{joined}", *lines], is_bad


def _at_work(run: Path) -> tuple[str, bool]:
    """Return where a run is that has begun, and whether it has failed or fallen silent; "" of one that has not begun."""
    if not (run / "state.json").is_file():
        return "", False
    status = read_status(run, time.time())
    return status.sentence, status.word in ("failed", "silent")
