"""`hnm crossval`: the whole way, from pretraining on, once a fold; then what the folds say together.

    OUT/crossval.json  config.yaml      what was asked for
        cohort/                         the cohort with a split column for each fold; its tars stay where they are
        repeat-0/fold-0/ ...            a run directory each: hnm train, leak check, hnm evaluate
        metrics.json  predictions.parquet   mean and interval over folds; out-of-fold predictions
        report.html  figures/           both, to look at

A fold is done when its metrics.json is there (with --reports, its report.html too): the same command does what is missing.
Processes that share the work (array jobs, --fold I/N) need only the folder in common; each claims the fold that it is at. With
--ranks 1 a fold trains in this process, else in a child (launch/process/local.py); asked to stop, either saves, and no other
fold begins.
"""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hnm.aggregator.bags import features_complete
from hnm.config import Config, load_config, read_config
from hnm.encoder.start import find_start
from hnm.engine.ranks import single_world
from hnm.evidence.crossval import summarise, write_predictions
from hnm.evidence.folds import require_clean_run, require_no_leak
from hnm.run.journal import Journal
from hnm.run.study import open_study
from hnm.run.tracking import ID_FILE, Tracker, TrackingConfig
from hnm.run.tracking_copy import DatabaseCopy
from hnm.run.tracking_run import files_of_run, tracking_uri
from hnm.run_rounds import round_folder
from hnm.statistics.zero_width import few_patients
from launch.process.disks import is_shared
from launch.process.distributed import is_rank
from launch.process.local import run_child, stop_if_asked
from launch.process.preemption import Preempted, StopSignals
from launch.process.run_directory import attempt_tags, open_run
from launch.verbs import train as verbs
from launch.verbs.crossval_folder import (
    Fold,
    Request,
    all_folds,
    alone,
    check,
    claim_of_fold,
    count_without_patch,
    encoder_of_other,
    is_done,
    open_folder,
    run_folder,
    share_of_folds,
    split_column,
)
from launch.verbs.crossval_folds import folds_told, site_of_slides
from launch.verbs.crossval_page import SHOWN, report_crossval, write_fold_page
from shards.cohort.cohort import FEATURES, Cohort
from shards.errors import InputError
from shards.files import write_json


def run(request: Request) -> int:
    """Cross-validate; the exit code is 1 when a fold failed, 0 also when folds are left to other processes.

    Raises:
        Preempted: it was asked to stop, and the fold that it was at has saved.
    """
    if is_rank():
        raise InputError("hnm crossval starts its ranks itself, fold by fold: leave torchrun out and give --ranks N")
    config = load_config(request.config, request.preset, request.overrides)
    cohort = check(request, config)
    for line in folds_told(config, cohort, request.num_folds, request.repeats):
        print(line, flush=True)
    with alone(request.out):
        open_folder(request, config, cohort)
        tracker = parent_tracker(request, config)
    failed: dict[Fold, str] = {}
    status: str | None = "FAILED"
    try:
        with StopSignals(is_quiet=True) as signals:
            for key in share_of_folds(request):
                if (problem := run_fold(request, config, key, tracker.run_id, signals)) is not None:
                    failed[key] = problem
                    print(f"repeat {key[0]}, fold {key[1]} failed: {problem}", file=sys.stderr, flush=True)
            with alone(request.out):  # array jobs may come to their ends together
                is_joined = finish(request, config)
            if is_joined:
                status = "FINISHED"
            elif not failed:
                status = None  # other processes are at work, or to come: it is still running
    except Preempted:
        status = "KILLED"
        raise
    finally:
        if status == "FINISHED" or (status is not None and tracker.copy is None):
            finish_tracking(request, config, tracker, status)
    for (repeat, fold), problem in failed.items():
        print(f"error: repeat {repeat}, fold {fold}: {problem}", file=sys.stderr)
    return 1 if failed else 0


def parent_tracker(request: Request, config: Config) -> Tracker:
    """Return the tracker of the whole, under which the folds' runs are."""
    params = {**config.model_dump(mode="json"), "folds": request.num_folds, "repeats": request.repeats}
    is_copied = config.tracking.uri is None and is_shared(request.out)
    return Tracker(request.out, config.tracking, params, DatabaseCopy(request.out) if is_copied else None)


def finish_tracking(request: Request, config: Config, tracker: Tracker, status: str) -> None:
    """Tell MLflow how the whole ended, after the folds that it has not been told of.

    On a disk that nodes share these are all: processes of several nodes that write one SQLite file may hang, or spoil it. So
    each fold leaves its events.jsonl, and whoever joins the folds, alone, puts them into the database.
    """
    with alone(request.out):
        tracker.flush()  # now it has its run's id
        uri = None if tracker.copy else tracking_uri(request.out, config.tracking.uri)
        under = TrackingConfig(uri=uri, experiment=config.tracking.experiment, parent_run=tracker.run_id or None)
        for folder in (run_folder(request.out, key) for key in all_folds(request)):
            if tracker.run_id and (folder / "metrics.json").is_file() and not (folder / ID_FILE).is_file():
                params = read_config(folder / "config.yaml").model_dump(mode="json")
                fold = Tracker(folder, under, params, tracker.copy)
                fold.finish("FINISHED", files_of_run(folder), attempt_tags(folder))
        tracker.finish(status, files_of_run(request.out))
        tracker.close()


def run_fold(request: Request, config: Config, key: Fold, parent_run: str, signals: StopSignals) -> str | None:
    """Do one fold, if it is not done and no other process is at it; return what went wrong, None if nothing.

    Raises:
        Preempted: this process, or the one that did the work, was asked to stop.
    """
    name, folder = f"repeat {key[0]}, fold {key[1]}", run_folder(request.out, key)
    if is_done(request, key):
        return None
    with claim_of_fold(request, key, signals) as is_mine:
        if not is_mine:
            if request.share:
                return "another process is at it"
            print(f"{name}: another process is at it", flush=True)
            return None
        if is_done(request, key):  # that process was waited for, and has done it
            return None
        print(name, flush=True)
        try:
            if not (folder / "metrics.json").is_file():
                train_and_evaluate(request, config, key, parent_run, signals)
            if request.reports:
                write_fold_page(folder)
                stop_if_asked(signals)
        except (InputError, FloatingPointError) as error:
            return str(error)
        except Preempted as stop:
            raise Preempted(f"{name}: {stop}. No other fold is begun") from stop
    return None


def train_and_evaluate(request: Request, config: Config, key: Fold, parent_run: str, signals: StopSignals) -> None:
    """Pretrain, train and evaluate one fold, with the leak checks before and after the training.

    Raises:
        Preempted: asked to stop, it has saved what it could.
    """
    folder, view = run_folder(request.out, key), request.out / "cohort"
    overrides = [*request.overrides, *fold_overrides(request, config, key, parent_run)]
    fold_config = load_config(request.config, request.preset, overrides)
    cohort = Cohort.open(view)
    study = open_study(cohort, fold_config.data, fold_config.seed, "hnm crossval")
    by_site = fold_config.data.split_by != "patient"
    require_no_leak(study, cohort.slides["patient_id"].to_numpy(), cohort.sites if by_site else None)
    encoder = request.encoder
    if request.encoders_of is not None:
        encoder = encoder_of_other(request.encoders_of, request.out, key)
    stop_if_asked(signals)
    if (features := request.features_of(key)) is not None and encoder is not None:
        take_features(features, encoder, cohort, fold_config, folder)
    if request.ranks == 1:
        verbs.train(view, folder, encoder, request.config, request.preset, overrides, 1)
    else:
        named = [("--config", request.config), ("--preset", request.preset), ("--encoder", encoder)]
        options = [str(word) for pair in named if pair[1] is not None for word in pair]
        hnm(["train", str(view), str(folder), *options, "--ranks", str(request.ranks), *overrides], signals)
    stop_if_asked(signals)
    num_sampled = require_clean_run(folder, study)
    print(f"leak check: none of the {num_sampled:,} patches that trained is of a validation or test slide", flush=True)
    if request.ranks == 1:
        verbs.evaluate(folder, None, 1, with_report=False)
    else:
        hnm(["evaluate", str(folder), "--no-report", "--ranks", str(request.ranks)], signals)
    stop_if_asked(signals)


def take_features(features: Path, encoder: Path, cohort: Cohort, config: Config, run: Path) -> None:
    """Let round 0 of a new run find the features that a study has embedded with its start encoder: it embeds none itself."""
    if (run / "state.json").is_file() or not features_complete(features):
        return
    config = config.model_copy(update={"encoder": find_start(str(encoder), config.encoder).config})
    open_run(run, cohort, config)
    (folder := round_folder(run, 0)).mkdir()
    (folder / FEATURES).symlink_to(features.resolve())


def fold_overrides(request: Request, config: Config, key: Fold, parent_run: str) -> list[str]:
    """Return the settings of one fold: its split column, the repeat's seed, and a place below the parent's MLflow run."""
    overrides = [f"data.split_column={split_column(key)}", f"seed={config.seed + key[0]}"]
    if config.tracking.enabled and config.tracking.uri is None and is_shared(request.out):
        overrides.append("tracking.enabled=false")  # whoever joins the folds tells MLflow of them: see finish_tracking
    elif parent_run:
        uri = tracking_uri(request.out, config.tracking.uri)
        overrides += [f"tracking.uri={json.dumps(uri)}", f"tracking.parent_run={json.dumps(parent_run)}"]
    return overrides


def hnm(arguments: list[str], signals: StopSignals) -> None:
    """Run an hnm command in processes of its own.

    Raises:
        InputError: it failed; it has said why.
        Preempted: it, or this process, was asked to stop.
    """
    if code := run_child(arguments, signals):
        raise InputError(f"hnm {arguments[0]} ended with exit code {code}; what it said stands above")


def finish(request: Request, config: Config) -> bool:
    """Write and print what the folds say together, if all are there; else say how many are not, and return False."""
    runs = {key: run_folder(request.out, key) for key in all_folds(request)}
    missing = [key for key, folder in runs.items() if not (folder / "metrics.json").is_file()]
    if missing:
        print(f"{len(runs) - len(missing)} of {len(runs)} folds are done. The same command, without --fold, does the rest")
        if len(missing) < len(runs):
            print(f"What the folds say that are done: hnm report {request.out}")
        return False
    site_of = site_of_slides(Cohort.open(request.out / "cohort"), config)
    result, predictions = summarise(runs, request.num_folds, config.seed, site_of)
    result["without_patch"] = count_without_patch(request, config)
    write_predictions(request.out / "predictions.parquet", predictions)
    write_json(request.out / "metrics.json", result)
    journal = Journal(request.out, single_world())  # the tracker sends what is in its events.jsonl
    means = {name.replace(" ", "/"): figure["mean"] for name, figure in result["mean"].items()}
    journal.metrics("mean", request.repeats, **means)  # more repeats may be asked for later: another point
    journal.close()
    print_summary(result, request)
    report_crossval(request.out)
    return True


def print_summary(result: dict[str, Any], request: Request) -> None:
    """Print the means with their intervals."""
    console = Console(highlight=False)
    table = Table(title=f"{request.num_folds} folds x {request.repeats}: mean and 95 % interval over folds")
    for heading in ("figure", "mean", "interval"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for name in SHOWN:
        if (figure := result["mean"].get(name)) is not None:
            interval = "" if figure["low"] is None else f"{figure['low']:.3f} to {figure['high']:.3f}"
            table.add_row(name, f"{figure['mean']:.3f}", interval)
    console.print(table)
    pooled = result["out_of_fold"]["auc"]
    if pooled["value"] is not None and pooled["low"] is not None:
        few = f", {told}" if (told := few_patients(result)) else ""
        interval = f"{pooled['low']:.3f} to {pooled['high']:.3f} by {result.get('interval_by', 'patient')}{few}"
        console.print(f"AUC of all out-of-fold predictions: {pooled['value']:.3f} ({interval})", soft_wrap=True)
    if (without := result.get("without_patch", {"slides": 0}))["slides"]:
        told = f"{without['slides']} slides with a label ({without['positive']} positive) gave no patch"
        console.print(f"warning: {told}: they are in no fold and in no figure", markup=False, soft_wrap=True)
    for warning in result["interval_warnings"]:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)
    console.print(f"wrote {request.out / 'metrics.json'}, {request.out / 'predictions.parquet'}", soft_wrap=True)
