"""patients.parquet of `hnm predict`: a row per patient beside the slides' rows, where a patient has several slides."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnm.evidence.patients import PATIENTS_FILE, Patients, gather_patients
from hnm.model.model import Model
from hnm.model.predictions import Row
from hnm.statistics.metrics import auc
from shards.files import whole_file


def write_patient_rows(out: Path, rows: Sequence[Row], model: Model) -> list[str]:
    """Write a row per patient: patient_id, label, num_slides (with a score), score, predicted, threshold, seen.

    Args:
        out: the folder.
        rows: of all slides in it.
        model: whose threshold of patients it is; of one that was chosen with a slide a patient it is that of slides.

    Returns:
        What to say of it, line by line; nothing, and no file, where every patient has one slide.
    """
    (out / PATIENTS_FILE).unlink(missing_ok=True)
    whose = np.array([row.patient_id or row.slide_id for row in rows])  # tables of before 2026-11-28 do not say
    if len(np.unique(whose)) == len(whose):
        return []
    labels = np.array([-1 if row.label is None else row.label for row in rows], np.int8)
    # a positive slide without tissue was missed: nothing of it was found
    scores = np.array([0.0 if row.is_missed else np.nan if row.score is None else row.score for row in rows])
    how, about = model.config.evaluate.patient_score, model.about
    its = gather_patients(whose, labels, scores, how)
    threshold = about.slide_threshold if about.patient_threshold is None else about.patient_threshold
    seen_of = {name: row.seen for name, row in zip(whose.tolist(), rows, strict=True) if row.seen}
    seen = np.array([seen_of.get(name, "") for name in its.names.tolist()])
    unknown = np.isnan(its.scores)
    called = (its.scores >= threshold).astype(np.int8)
    columns = {
        "patient_id": its.names,
        "label": pa.array(its.labels, mask=its.labels < 0),
        "num_slides": its.num_slides,
        "score": pa.array(its.scores, mask=unknown),
        "predicted": pa.array(called, mask=unknown),
        "threshold": np.full(len(its.names), threshold),
        "seen": seen,
    }
    with whole_file(out / PATIENTS_FILE) as temporary:
        pq.write_table(pa.table(columns), temporary)
    source = "that of slides" if about.patient_threshold is None else "chosen on validation patients"
    told = f"{len(its.names)} patients, the {how} of their slides' scores; {int(called[~unknown].sum())} positive"
    line = f"{out / PATIENTS_FILE}: {told} from {threshold:.4f} on ({source})"
    return [line, *_figures(its, called, seen)]


def _figures(its: Patients, called: np.ndarray, seen: np.ndarray) -> list[str]:
    """Return the figures of patients whose label is known, of those that are a test of the model."""
    tested = (its.labels >= 0) & ~np.isnan(its.scores) & (seen == "")
    if not tested.any():
        return []
    area = auc(its.labels[tested], its.scores[tested])
    right = int((called == its.labels)[tested].sum())
    mixed = f"; {its.num_mixed} have slides of both labels and count as positive" if its.num_mixed else ""
    figure = "not defined, all of one class" if area is None else f"{area:.3f}"
    return [f"{int(tested.sum())} patients have a label: patient AUC {figure} (the headline), {right} called right{mixed}"]
