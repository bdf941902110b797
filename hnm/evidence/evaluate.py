"""Evaluate a finished run: everything was chosen on validation slides; here, and only here, the test split is read.

chosen round (validation) ▶ embed test slides ▶ slide and patch scores ▶ metrics.json, predictions.parquet, patch_scores.npy
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnm.aggregator.bags import open_bags
from hnm.aggregator.score import gather_scores, score_slides, slide_scores
from hnm.config import Config
from hnm.encoder.contrastive_model import load_model
from hnm.encoder.embed import embed
from hnm.engine.ranks import barrier
from hnm.evidence.detect import froc_part
from hnm.evidence.measure import instance_part, require_scores, round_rows, slide_part, warnings_of
from hnm.mining.coordinator import read_decision
from hnm.rounds import choose_round, encoder_of_round, load_aggregator, round_folder
from hnm.run.broken import count_broken, explain_broken, read_broken
from hnm.run.phase import phase, read_state
from hnm.run.session import Session
from hnm.run.study import Study
from hnm.statistics.zero_width import zero_width_warning
from shards.cohort.cohort import FEATURES
from shards.errors import InputError
from shards.files import whole_file, write_array, write_json


def evaluate(config: Config, run: Path, session: Session) -> dict[str, Any] | None:
    """Read the test split once and write its metrics. Every rank must call it.

    Returns:
        The metrics on rank 0, None elsewhere.

    Raises:
        InputError: the run is not finished, or there is no test slide.
    """
    study, world = session.study, session.world
    if len(study.test) == 0:
        raise InputError(_why_no_test_slide(config, study))
    last = round_folder(run, config.rounds.num_rounds)
    if not (last / "mining.json").is_file():
        raise InputError(
            f"{run}: training is not finished ({last.name} has no mining.json). Run the same hnm train again"
        )
    chosen = choose_round(config, run)
    with phase("evaluate", chosen, run, session):
        slides_scores, patch_scores = score_test_slides(config, run, chosen, session)
        barrier(world)
    if slides_scores is None or patch_scores is None:
        return None
    metrics = measure(config, run, chosen, slides_scores, patch_scores, session)
    write_array(run / "patch_scores.npy", patch_scores)
    write_predictions(run / "predictions.parquet", slides_scores, metrics["threshold"], session)
    write_json(run / "metrics.json", metrics)
    return metrics


def score_test_slides(
    config: Config, run: Path, chosen: int, session: Session
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Score the test slides with the chosen round's model; every rank must call it.

    Returns:
        On rank 0 the (S,) slide scores and (N,) patch scores of all embedded slides, NaN elsewhere; None on other ranks.
    """
    study, world, folder = session.study, session.world, run / "test-features"
    if study.cohort.has_pictures:
        model = load_model(encoder_of_round(run, chosen), config.encoder, session.seed)
        embed(model.encoder, study.test, config.rounds.embed_batch_size, folder, session)
    bags = open_bags(folder if study.cohort.has_pictures else study.cohort.root / FEATURES, world, study.test)
    aggregator = load_aggregator(round_folder(run, chosen) / "aggregator.safetensors", bags.dim, session)
    logits, part = score_slides(aggregator, bags, study.test, session)
    scores = np.empty(study.cohort.num_patches, np.float32) if world.is_main else None
    gather_scores(part, scores, world)
    if scores is None:
        return None, None
    by_slide = np.load(round_folder(run, chosen) / "slide_scores.npy")
    by_slide[study.test] = slide_scores(logits)
    by_patch = np.load(round_folder(run, chosen) / "scores.npy")
    test_patches = study.patches_of(study.test)
    by_patch[test_patches] = scores[test_patches]
    shutil.rmtree(folder, ignore_errors=not study.cohort.has_pictures)
    return by_slide, by_patch


def measure(
    config: Config, run: Path, chosen: int, by_slide: np.ndarray, by_patch: np.ndarray, session: Session
) -> dict[str, Any]:
    """Return all metrics; thresholds come from the validation slides.

    Args:
        by_slide: (S,) slide scores.
        by_patch: (N,) patch scores.

    Raises:
        InputError: a score is NaN.
    """
    study, seed = session.study, session.seed
    require_scores(by_slide, by_patch, study)
    folders = [round_folder(run, r) for r in range(config.rounds.num_rounds + 1)]
    decisions = [read_decision(folder) for folder in folders]
    validation = decisions[chosen]["validation"]
    of_test = study.labels[study.test], by_slide[study.test], study.patients_of(study.test), validation["threshold"]
    froc = froc_part(by_patch, study, seed)
    phases, broken = read_state(run)["phases"], read_broken(run)
    return {
        "chosen_round": chosen,
        "threshold": validation["threshold"],
        "num_test_slides": len(study.test),
        **slide_part(*of_test, seed),
        "instance": instance_part(by_patch, study, seed),
        "froc": froc,
        "validation": validation,
        "rounds": round_rows(decisions, folders, study),
        "encoder_steps": sum(p["steps"] for p in phases if p["phase"] == "finetune"),
        "seconds": round(sum(p["seconds"] for p in phases), 1),
        "broken_patches": count_broken(broken, study, study.test),
        "warnings": warnings_of(study, froc) + explain_broken(broken, study, study.test, "test"),
        "interval_warnings": zero_width_warning(*of_test),
    }


def write_predictions(path: Path, by_slide: np.ndarray, threshold: float, session: Session) -> None:
    """Write a row per scored slide: slide_id, patient_id, split, label, score, predicted."""
    study = session.study
    slides = np.sort(np.concatenate([study.train, study.validation, study.test]))
    split = np.full(study.cohort.num_slides, "train", dtype=object)
    split[study.validation], split[study.test] = "validation", "test"
    table = pa.table(
        {
            "slide_id": study.cohort.slide_ids[slides],
            "patient_id": study.patients_of(slides),
            "split": split[slides],
            "label": study.labels[slides],
            "score": by_slide[slides],
            "predicted": (by_slide[slides] >= threshold).astype(np.int8),
        }
    )
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)


def _why_no_test_slide(config: Config, study: Study) -> str:
    table, data = study.cohort.root / "slides.parquet", config.data
    num_test = int(np.count_nonzero(study.cohort.splits(data.split_column) == "test"))
    if num_test:
        return (
            f"{table}: {num_test} slides of column {data.split_column!r} are 'test', but none has a label (column "
            f"{data.label_column!r}) and a patch. There is nothing to measure: fill in their labels and tile again"
        )
    return (
        f"{table}: no slide of column {data.split_column!r} is 'test'. Name the column that has test slides: "
        "data.split_column"
    )


def read_metrics(run: Path) -> dict[str, Any]:
    """Return a run's metrics.json."""
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return metrics
