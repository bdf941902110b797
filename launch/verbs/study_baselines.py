"""The baselines of a study: fitted on the first features of a fold, and evaluated as a run of `hnm crossval` is.

    first features ──▶ bags of train, validation, test ──BASELINES[name].fit──▶ methods/baseline/NAME/repeat-0/fold-0/
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnm.aggregator.bags import open_bags
from hnm.baselines.bags import Bags, Fitted
from hnm.baselines.baselines import BASELINES
from hnm.baselines.bounded_bags import Shown, bags_of, shown_rows
from hnm.config import Config, load_config
from hnm.engine.ranks import single_world
from hnm.evidence.beside_baselines import context_auc
from hnm.evidence.measure import slide_figures
from hnm.run.study import Study, open_study
from hnm.statistics.metrics import auc, instance_metrics, youden_threshold
from hnm.statistics.thresholds import choose_threshold
from launch.process.local import stop_if_asked
from launch.process.preemption import Preempted, StopSignals
from launch.verbs.crossval_folder import Fold, claim_of_fold, run_folder, split_column
from launch.verbs.study_folder import BASELINE, StudyRequest, first_folder, first_request, method_folder
from shards.cohort.cohort import FEATURES, Cohort
from shards.errors import InputError
from shards.files import whole_file, write_json


def fit_fold(request: StudyRequest, names: list[str], key: Fold, cohort: Path, signals: StopSignals) -> str | None:
    """Fit and evaluate the baselines of a fold that are missing; return what went wrong, None if nothing.

    Raises:
        Preempted: asked to stop; what is done stays.
    """
    told = f"repeat {key[0]}, fold {key[1]}: baselines"
    folders = {name: run_folder(method_folder(request.out, BASELINE + name), key) for name in names}
    if all((folder / "metrics.json").is_file() for folder in folders.values()):
        return None
    asked = replace(first_request(request, cohort), share="1/1" if request.part else None)
    with claim_of_fold(asked, key, signals) as is_mine:
        if not is_mine:
            if request.part:  # nobody else has this part: see claim_of_fold
                return "another process is at it"
            print(f"{told}: another process is at it", flush=True)
            return None
        print(told, flush=True)
        try:
            study, config = _study_of(request, cohort, key)
            features = study.cohort.root / FEATURES
            if study.cohort.has_pictures:
                features = first_folder(request, key) / FEATURES
            shown = shown_rows(study, config.seed)
            all_bags = open_bags(features, single_world(), np.sort(np.concatenate([study.embedded_slides, study.test])))
            bags = {name: bags_of(all_bags, study, getattr(study, name), shown) for name in ("train", "validation", "test")}
            for name, folder in folders.items():
                if not (folder / "metrics.json").is_file():
                    _fit(name, bags, shown, study, config, folder)
                stop_if_asked(signals)
        except InputError as error:
            return str(error)
        except Preempted as stop:
            raise Preempted(f"{told}: {stop}. No other fold is begun") from stop
    return None


def _study_of(request: StudyRequest, cohort: Path, key: Fold) -> tuple[Study, Config]:
    """Return a fold's study, and its settings with the repeat's seed."""
    asked = first_request(request, cohort)
    config = load_config(asked.config, None, [*asked.overrides, f"data.split_column={split_column(key)}"])
    config = config.model_copy(update={"seed": config.seed + key[0]})
    study = open_study(Cohort.open(asked.out / "cohort"), config.data, config.seed, "hnm study")
    if len(study.test) == 0:
        raise InputError(f"{asked.out / 'cohort'}: no test slide in repeat {key[0]}, fold {key[1]}")
    return study, config


def _fit(name: str, bags: dict[str, Bags], shown: Shown, study: Study, config: Config, folder: Path) -> None:
    """Fit a baseline and write metrics.json and predictions.parquet, as far as a cross-validation asks for them."""
    begin = time.monotonic()
    fitted = BASELINES[name].fit(bags["train"], bags["validation"], config.seed)
    fit_s = time.monotonic() - begin
    scores = {part: fitted.slide_scores(bags[part]).astype(np.float64) for part in ("validation", "test")}
    score_s = time.monotonic() - begin - fit_s
    labels = {part: study.labels[getattr(study, part)] for part in scores}
    threshold = choose_threshold(labels["validation"], scores["validation"], config.evaluate.threshold)
    metrics: dict[str, Any] = {
        "chosen_round": 0, "chosen": fitted.chosen, "threshold": threshold, "num_test_slides": len(study.test),
        "encoder_steps": 0, "seconds": round(fit_s, 2), "seconds_per_patch": score_s / len(bags["test"].rows) / 2,
        "slide": slide_figures(labels["test"], scores["test"], threshold),
        "instance": _instance_part(fitted, bags, shown, study), "froc": None,
        "context": {"slide_auc_without_positive_patches": context_auc(fitted, bags["test"], shown, study)},
        "validation": {"auc": auc(labels["validation"], scores["validation"])}, "warnings": shown.warnings,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    _write_predictions(folder / "predictions.parquet", scores["test"], threshold, study)
    write_json(folder / "metrics.json", metrics)  # last: it says that the fold is done


def _instance_part(fitted: Fitted, bags: dict[str, Bags], shown: Shown, study: Study) -> dict[str, Any] | None:
    """Return the figures of the test patches with known truth; None where there are none, or the baseline scores no patch."""
    said = {part: fitted.patch_scores(bags[part]) for part in ("validation", "test")}
    if said["validation"] is None or said["test"] is None:
        return None
    known: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for part, of_bags in said.items():
        ids = shown.ids_of(getattr(study, part))
        truth = study.cohort.patches.truth[ids]
        in_positive = study.labels[study.cohort.patches.slide[ids]] == 1
        known[part] = truth[truth >= 0], np.concatenate(of_bags or [])[truth >= 0], in_positive[truth >= 0]
    if len(np.unique(known["validation"][0])) < 2 or not len(known["test"][0]):
        return None
    threshold = youden_threshold(*known["validation"][:2])
    return {"threshold": threshold, **instance_metrics(*known["test"], threshold)}


def _write_predictions(path: Path, scores: np.ndarray, threshold: float, study: Study) -> None:
    table = pa.table(
        {
            "slide_id": study.cohort.slide_ids[study.test],
            "patient_id": study.patients_of(study.test),
            "split": ["test"] * len(study.test),
            "label": study.labels[study.test],
            "score": scores,
            "predicted": (scores >= threshold).astype(np.int8),
        }
    )
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)
