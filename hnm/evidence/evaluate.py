"""Evaluate a finished run: everything was chosen on validation slides; here, and only here, the test split is read.

chosen round (validation) ▶ embed test slides ▶ slide and patch scores ▶ metrics.json, predictions.parquet, patch_scores.npy
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnm.aggregator.bags import Bags, open_bags
from hnm.aggregator.score import gather_scores, score_slides, slide_scores
from hnm.config import Config
from hnm.encoder.contrastive_model import load_model
from hnm.encoder.embed import embed
from hnm.engine.ranks import barrier, main_says
from hnm.evidence.beside_baselines import baselines_part, baselines_path
from hnm.evidence.calls import calls_part
from hnm.evidence.context import context_part
from hnm.evidence.detect import froc_part
from hnm.evidence.gain import gain_of_finetuning
from hnm.evidence.measure import (
    count_patients,
    instance_part,
    interval_by,
    require_scores,
    round_rows,
    slide_part,
    warnings_of,
)
from hnm.evidence.patch_threshold import patch_threshold_part
from hnm.evidence.patients import PATIENTS_FILE, patient_part, write_patients
from hnm.evidence.without_patch import explain_without_patch, without_patch_part
from hnm.mining.coordinator import read_decision
from hnm.rounds import load_aggregator
from hnm.run.broken import count_broken, explain_broken, read_broken
from hnm.run.checksums import EVALUATED_FILES, MINED_FILES, note_files, read_json, read_state, require_whole, whole
from hnm.run.phase import phase
from hnm.run.session import Session
from hnm.run.site_leaks import few_sites_warning, site_warnings
from hnm.run.study import Study
from hnm.run_rounds import choose_round, encoder_of_round, home_of, last_round, round_folder, rounds_of
from hnm.statistics.thresholds import policy_warnings
from hnm.statistics.zero_width import zero_width_warning
from shards.cohort.cohort import FEATURES
from shards.cohort.slides import SPLITS
from shards.errors import InputError
from shards.files import whole_file, write_array, write_json

Scored = tuple[np.ndarray | None, np.ndarray | None, dict[str, Any]]  # see `score_test_slides`
TEST_FEATURES = "test-features-{}"  # by round; a stop leaves them, for the next evaluation


def evaluate(config: Config, run: Path, session: Session) -> dict[str, Any] | None:
    """Read the test split once and write its metrics. Every rank must call it.

    Returns:
        The metrics on rank 0, None elsewhere.

    Raises:
        InputError: the run is not finished, or there is no test slide.
    """
    world = session.world
    chosen = finished_choice(config, run, session)
    with phase("evaluate", chosen, run, session):
        scored = score_test_slides(run, chosen, session, lambda round_: test_bags(config, run, round_, session))
        forget_test_bags(run, chosen, session)
        barrier(world)
    return write_evaluated(config, run, chosen, scored, session)


def finished_choice(config: Config, run: Path, session: Session) -> int:
    """Return the round whose model is the result, if the run can be evaluated. Every rank must call it.

    Raises:
        InputError: the run is not finished, a file is damaged, or there is no test slide.
    """
    if len(session.study.test) == 0:
        raise InputError(_why_no_test_slide(config, session.study))
    if last_round(config, run) is None:
        final = round_folder(run, config.rounds.num_rounds).name
        raise InputError(f"{run}: training is not finished ({final} has no mining.json). Run the same hnm train again")
    chosen = choose_round(config, run)
    mined = [round_folder(run, round_) / "mining.json" for round_ in rounds_of(config, run)]
    require_whole([*mined, *(round_folder(run, chosen) / name for name in MINED_FILES)], run, session.world)
    return chosen


def write_evaluated(config: Config, run: Path, chosen: int, scored: Scored, session: Session) -> dict[str, Any] | None:
    """Write what the test split says, metrics.json last, and return the metrics on rank 0; None elsewhere."""
    slides_scores, patch_scores, beside = scored
    if slides_scores is None or patch_scores is None:
        return None
    metrics = {**measure(config, run, chosen, slides_scores, patch_scores, session), **beside}
    write_array(run / "patch_scores.npy", patch_scores)
    write_predictions(run / "predictions.parquet", slides_scores, metrics["threshold"], session)
    if "patient" in metrics:
        how, threshold = config.evaluate.patient_score, metrics["patient_threshold"]
        write_patients(run / PATIENTS_FILE, slides_scores, threshold, session.study, how)
    write_json(run / "metrics.json", metrics)
    note_files([run / name for name in EVALUATED_FILES], run)
    return metrics


def score_test_slides(run: Path, chosen: int, session: Session, bags_of: Callable[[int], Bags]) -> Scored:
    """Score the test slides with the chosen round's model; every rank must call it.

    Args:
        run: the run directory, or a target's folder in it.
        bags_of: the test slides' features by the encoder of a round.

    Returns:
        On rank 0 the (S,) slide scores and (N,) patch scores of all embedded slides, NaN elsewhere, but for `Study.missed`
        slides, whose score is 0, and what is to stand beside the figures: context and baselines; None on other ranks.
    """
    study, world = session.study, session.world
    bags = bags_of(chosen)
    saved = whole(round_folder(run, chosen) / "aggregator.safetensors", run, world)
    aggregator = load_aggregator(saved, bags.dim, session)
    logits, part = score_slides(aggregator, bags, study.test, session)
    context = context_part(aggregator, bags, slide_scores(logits), study, world)
    has_baselines = main_says(baselines_path(run).is_file, world)
    first = bags if not has_baselines or chosen == 0 else bags_of(0)
    scores = np.empty(study.cohort.num_patches, np.float32) if world.is_main else None
    gather_scores(part, scores, world)
    if scores is None:
        return None, None, {}
    by_slide = np.load(round_folder(run, chosen) / "slide_scores.npy")
    by_slide[study.test], by_slide[study.missed] = slide_scores(logits), 0.0
    by_patch = np.load(round_folder(run, chosen) / "scores.npy")
    test_patches = study.patches_of(study.test)
    by_patch[test_patches] = scores[test_patches]
    baselines = baselines_part(run, first, by_slide, session) if has_baselines else None
    return by_slide, by_patch, {"context": context, "baselines": baselines}


def forget_test_bags(run: Path, chosen: int, session: Session) -> None:
    """Remove the test slides' features that an evaluation has made (rank 0)."""
    if session.world.is_main:
        for round_ in {chosen, 0}:
            shutil.rmtree(run / TEST_FEATURES.format(round_), ignore_errors=True)


def test_bags(config: Config, run: Path, round_: int, session: Session) -> Bags:
    """Return the test slides' features by the encoder of a round, or those that were given. Every rank must call it."""
    study, world, folder = session.study, session.world, run / TEST_FEATURES.format(round_)
    if not study.cohort.has_pictures:
        return open_bags(study.cohort.root / FEATURES, world, study.test)
    model = load_model(whole(encoder_of_round(run, round_), run, world), config.encoder, session.seed)
    embed(model.encoder, study.test, config.rounds.embed_batch_size, folder, session)
    return open_bags(folder, world, study.test)


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
    folders = [round_folder(run, r) for r in rounds_of(config, run)]
    decisions = [read_decision(folder) for folder in folders]
    validation = decisions[chosen]["validation"]
    judged, threshold = study.judged, validation["threshold"]
    of_test = study.labels[judged], by_slide[judged], study.patients_of(judged), threshold
    slide = slide_part(of_test[0], of_test[1], study.drawn_by(judged), threshold, seed)
    calls = calls_part(by_slide, study, config.evaluate, threshold, seed)
    calls |= patient_part(by_slide, study, config.evaluate, seed)
    without_patch = without_patch_part(study, by_slide, threshold)
    froc = froc_part(by_patch, study, seed)
    phases, broken = read_state(home_of(run))["phases"], read_broken(home_of(run))
    return {
        "chosen_round": chosen,
        "threshold": validation["threshold"],
        "num_test_slides": len(judged),
        "patients": count_patients(study.labels[judged], study.patients_of(judged)),
        **slide,
        **calls,
        **interval_by(study),
        **without_patch,
        "instance": instance_part(by_patch, study, seed),
        "froc": froc,
        "validation": validation,
        "rounds": round_rows(decisions, folders, study),
        "gain": gain_of_finetuning(run, len(folders), config.rounds.choose, study, seed),
        "encoder_steps": sum(p["steps"] for p in phases if p["phase"] == "finetune"),
        "seconds": round(sum(p["seconds"] for p in phases), 1),
        "broken_patches": count_broken(broken, study, study.test),
        "patch_threshold": patch_threshold_part(by_patch, study, config.rounds.patch_false_positive_rate),
        "warnings": explain_without_patch({**slide, **without_patch})
        + warnings_of(study, froc)
        + site_warnings(study)
        + calls.get("patient_warnings", [])
        + policy_warnings(config.evaluate.threshold, study.labels[study.validation], validation)
        + explain_broken(broken, study, study.test, "test"),
        "interval_warnings": zero_width_warning(*of_test) + few_sites_warning(study),
    }


def write_predictions(path: Path, by_slide: np.ndarray, threshold: float, session: Session) -> None:
    """Write a row per slide with a label: slide_id, patient_id, split, label, score, predicted, status.

    A slide that gave no patch has no score, and `status` says why; a positive test slide without tissue has the score 0.
    """
    study = session.study
    split = np.full(study.cohort.num_slides, "", dtype=object)
    for name in SPLITS:
        split[getattr(study, name)] = name
        split[study.without_patch.get(name, [])] = name
    slides = np.flatnonzero(split != "")
    unknown = np.isnan(by_slide[slides])
    has_patch = study.cohort.patches_per_slide[slides] > 0
    status = ["done" if is_cut else study.status_of(slide) for slide, is_cut in zip(slides.tolist(), has_patch, strict=True)]
    table = pa.table(
        {
            "slide_id": study.cohort.slide_ids[slides],
            "patient_id": study.patients_of(slides),
            "split": split[slides],
            "label": study.labels[slides],
            "score": pa.array(by_slide[slides], mask=unknown),
            "predicted": pa.array((by_slide[slides] >= threshold).astype(np.int8), mask=unknown),
            "status": status,
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
    """Return a run's metrics.json.

    Raises:
        InputError: it is damaged.
    """
    return read_json(run / "metrics.json", "hnm evaluate")
