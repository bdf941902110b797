"""A cross-validation as its files say it, without any training: for tests of what reads them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnm.config import dump_config
from hnm.evidence.crossval import summarise, write_predictions
from hnm.evidence.measure import slide_figures
from shards.files import write_json
from tests.tiny import tiny_config

NUM_SLIDES, NUM_FOLDS = 12, 3


def write_crossval(out: Path) -> None:
    """Write a finished cross-validation of 12 slides of 12 patients, 3 folds twice, without patch truth.

    Another slide of the cohort takes no part. In the second repeat fold 0 has negative slides only, and a warning of it.
    """
    slides = np.arange(NUM_SLIDES)
    labels = (slides % 2).astype(np.int64)
    runs = {}
    for repeat, folds in enumerate((slides // 2 % NUM_FOLDS, np.array([0, 1, 0, 2, 0, 1, 0, 2, 1, 1, 2, 2]))):
        random = np.random.default_rng(repeat)
        for fold in range(NUM_FOLDS):
            own, threshold = np.flatnonzero(folds == fold), 0.4 + 0.1 * fold
            scores = np.clip(random.normal(0.35 + 0.3 * labels[own], 0.2), 0.01, 0.99)
            runs[repeat, fold] = _write_fold(out / f"repeat-{repeat}" / f"fold-{fold}", own, labels[own], scores, threshold)
    result, predictions = summarise(runs, NUM_FOLDS, seed=0)
    write_predictions(out / "predictions.parquet", predictions)
    write_json(out / "metrics.json", result)
    (out / "cohort").mkdir()
    pq.write_table(pa.table({"slide_id": [*names_of(slides), "unlabelled"]}), out / "cohort" / "slides.parquet")
    asked = {"cohort": "/gone/cohort", "fingerprint": "0123456789abcdef", "folds": NUM_FOLDS, "repeats": 2}
    write_json(out / "crossval.json", asked)
    config = tiny_config("tracking.uri=http://user:secret@127.0.0.1:9")
    (out / "config.yaml").write_text(dump_config(config), encoding="utf-8")


def names_of(slides: np.ndarray) -> list[str]:
    """Return the names of slides; a dot must become another character in the names of files."""
    return [f"TCGA.{number:02d}" for number in slides]


def _write_fold(run: Path, slides: np.ndarray, labels: np.ndarray, scores: np.ndarray, threshold: float) -> Path:
    both = len(np.unique(labels)) == 2
    metrics: dict[str, Any] = {
        "chosen_round": 1 if both else 0, "threshold": threshold, "num_test_slides": len(slides),
        "encoder_steps": 60, "seconds": 30.0,
        "slide": slide_figures(labels, scores, threshold), "instance": None, "froc": None,
        "warnings": [] if both else ["no test slide is <positive>"],
    }  # fmt: skip
    run.mkdir(parents=True)
    write_json(run / "metrics.json", metrics)
    names = names_of(slides)
    columns = {
        "slide_id": pa.array(names), "patient_id": pa.array([f"patient {name}" for name in names]),
        "split": pa.array(["test"] * len(slides)), "label": pa.array(labels.astype(np.int8)),
        "score": pa.array(scores), "predicted": pa.array((scores >= threshold).astype(np.int8)),
    }  # fmt: skip
    pq.write_table(pa.table(columns), run / "predictions.parquet")
    return run
