"""Evaluate a finished run of several targets: the test slides are embedded once, and each target is judged as a run of one is.

    run/test-features ──▶ targets/KEY/ {metrics.json, predictions.parquet, patch_scores.npy}, one target after another
                      ──▶ run/metrics.json, run/predictions.parquet: all targets side by side; of classes, which is called
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnm.aggregator.bags import Bags
from hnm.config import Config
from hnm.engine.ranks import barrier, main_says
from hnm.evidence.beside_baselines import baselines_path
from hnm.evidence.evaluate import (
    finished_choice,
    forget_test_bags,
    score_test_slides,
    test_bags,
    write_evaluated,
)
from hnm.mining.joined import mean_figures
from hnm.run.checksums import EVALUATED_FILES, note_files, read_json, read_state
from hnm.run.phase import phase
from hnm.run.session import Session
from hnm.run.study import Study
from hnm.run.targets import Targets
from hnm.statistics.bootstrap import bootstrap_intervals
from hnm.statistics.classes import CALLS, choose_call, class_figures, class_probabilities, told_of_classes
from hnm.target_rounds import target_folders
from shards.cohort.slides import SPLITS
from shards.errors import InputError
from shards.files import whole_file, write_json

OF_TARGET = ("num_test_slides", "patients", "threshold", "slide", "slide_auc_interval", "slide_intervals", "gain", "warnings")


def config_of_target(config: Config, targets: Targets, target: int) -> Config:
    """Return the configuration of one target: its label column is named, of a class in words."""
    changes: dict[str, Any] = {"label_column": targets.column_of(target), "targets": [], "classes": [], "negative_class": None}
    return config.model_copy(update={"data": config.data.model_copy(update=changes)})


def evaluate_targets(config: Config, run: Path, session: Session) -> dict[str, Any] | None:
    """Read the test split once and write the metrics of all targets. Every rank must call it.

    Returns:
        The joint metrics on rank 0, None elsewhere.

    Raises:
        InputError: the run is not finished, or a target has no test slide.
    """
    study, world, targets = session.study, session.world, session.study.targets
    assert targets is not None
    _require_test_slides(study, targets)
    chosen, folders = finished_choice(config, run, session), target_folders(run, targets)
    with phase("evaluate", chosen, run, session):
        bags = {chosen: test_bags(config, run, chosen, session)}
        if 0 not in bags and main_says(lambda: any(baselines_path(folder).is_file() for folder in folders), world):
            bags[0] = test_bags(config, run, 0, session)
        for target, folder in enumerate(folders):
            if not main_says((folder / "metrics.json").is_file, world):
                _evaluate_one(config_of_target(config, targets, target), folder, chosen, bags, session.of_target(target))
        forget_test_bags(run, chosen, session)
        barrier(world)
    return join_metrics(run, chosen, session) if world.is_main else None


def _evaluate_one(config: Config, folder: Path, chosen: int, bags: Mapping[int, Bags], part: Session) -> None:
    scored = score_test_slides(folder, chosen, part, lambda round_: bags[round_].of_slides(part.study.test))
    write_evaluated(config, folder, chosen, scored, part)
    barrier(part.world)


def join_metrics(run: Path, chosen: int, session: Session) -> dict[str, Any]:
    """Write run/predictions.parquet and, last, run/metrics.json of all targets; return the latter. On rank 0 only."""
    study, targets = session.study, session.study.targets
    assert targets is not None
    folders = target_folders(run, targets)
    each = {
        name: read_json(folder / "metrics.json", "hnm evaluate") for name, folder in zip(targets.names, folders, strict=True)
    }
    scores = np.stack([_scores_of(folder, study) for folder in folders], axis=1)
    thresholds = np.array([metrics["threshold"] for metrics in each.values()])
    phases = read_state(run)["phases"]
    metrics: dict[str, Any] = {
        "chosen_round": chosen,
        "num_test_slides": len(study.judged),
        "mean": mean_figures([metrics["slide"] for metrics in each.values()]) if _all_known(each) else None,
        "targets": {name: {key: metrics[key] for key in OF_TARGET if key in metrics} for name, metrics in each.items()},
        "encoder_steps": sum(done["steps"] for done in phases if done["phase"] == "finetune"),
        "seconds": round(sum(done["seconds"] for done in phases), 1),
    }
    called = None
    if targets.are_classes:
        metrics["classes"], called = of_classes(study, targets, scores, thresholds, session.seed)
    _write_predictions(run / "predictions.parquet", study, targets, scores, thresholds, called)
    write_json(run / "metrics.json", metrics)
    note_files([path for name in EVALUATED_FILES if (path := run / name).is_file()], run)
    return metrics


def of_classes(
    study: Study, targets: Targets, scores: np.ndarray, thresholds: np.ndarray, seed: int
) -> tuple[dict[str, Any], np.ndarray]:
    """Return what metrics.json says of the classes, and the class that is called for each slide, (S,) int64, -1 unknown."""
    has_negative = bool(targets.negative)
    validation, judged = study.validation, study.judged
    rule = choose_call(targets.classes_of(validation), scores[validation], thresholds, has_negative)
    known = np.isfinite(scores).all(axis=1)
    called = np.full(len(scores), -1)
    called[known] = CALLS[rule](scores[known], thresholds, has_negative)
    judged = judged[known[judged]]
    classes, probabilities = targets.classes_of(judged), class_probabilities(scores[judged], has_negative)

    def figures_of(rows: np.ndarray) -> dict[str, float | None]:
        return class_figures(classes[rows], probabilities[rows], called[judged][rows])

    first = (classes == classes[0]).astype(np.int8)  # a draw of one class only says nothing
    intervals = bootstrap_intervals(figures_of, first, study.patients_of(judged), seed=seed)
    return {
        "called_by": rule,
        **figures_of(np.arange(len(judged))),
        "intervals": {name: interval._asdict() for name, interval in intervals.items()},
        **told_of_classes(targets.class_names, classes, probabilities, called[judged]),
    }, called


def _write_predictions(
    path: Path, study: Study, targets: Targets, scores: np.ndarray, thresholds: np.ndarray, called: np.ndarray | None
) -> None:
    """Write a row per slide with a label: of each target label, score and predicted; of classes what is called, and how likely.

    Args:
        scores: (S, targets), NaN where there is none.
        thresholds: (targets,).
        called: (S,) int, -1 unknown; None: the targets are no classes.
    """
    split = np.full(study.cohort.num_slides, "", dtype=object)
    for name in SPLITS:
        split[getattr(study, name)] = name
        split[study.without_patch.get(name, [])] = name
    slides = np.flatnonzero(split != "")
    columns: dict[str, Any] = {
        "slide_id": study.cohort.slide_ids[slides],
        "patient_id": study.patients_of(slides),
        "split": split[slides],
    }
    for target, name in enumerate(targets.names):
        its, labels = scores[slides, target], targets.labels[target, slides]
        word = name.removeprefix("label_")
        columns[f"label_{word}"] = pa.array(labels, mask=labels < 0)
        columns[f"score_{word}"] = pa.array(its, mask=np.isnan(its))
        columns[f"predicted_{word}"] = pa.array((its >= thresholds[target]).astype(np.int8), mask=np.isnan(its))
    if called is not None:
        names = [*targets.class_names, None]
        known = called[slides] >= 0
        columns["class"] = [names[number] for number in targets.classes_of(slides)]
        columns["called"] = [names[number] for number in called[slides]]
        probabilities = class_probabilities(np.nan_to_num(scores[slides], nan=0.5), bool(targets.negative))
        for number, name in enumerate(targets.class_names):
            columns[f"probability_{name}"] = pa.array(probabilities[:, number], mask=~known)
    with whole_file(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def _scores_of(folder: Path, study: Study) -> np.ndarray:
    """Return a target's slide scores as its predictions.parquet has them, (S,) float64, NaN where there is none."""
    table = pq.read_table(folder / "predictions.parquet", columns=["slide_id", "score"])
    score_of = dict(zip(table["slide_id"].to_pylist(), table["score"].to_pylist(), strict=True))
    return np.array([score_of.get(slide_id, np.nan) for slide_id in study.cohort.slide_ids], np.float64)


def _all_known(each: Mapping[str, dict[str, Any]]) -> bool:
    return all(metrics["slide"][name] is not None for metrics in each.values() for name in ("auc", "auprc", "f1"))


def _require_test_slides(study: Study, targets: Targets) -> None:
    for target in range(len(targets.names)):
        if not len(study.of_target(target).test):
            raise InputError(
                f"{study.cohort.root / 'slides.parquet'}: no test slide has a label of {targets.column_of(target)!r} and a "
                "patch. There is nothing to measure: fill in their labels and tile again"
            )
