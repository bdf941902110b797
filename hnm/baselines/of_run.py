"""What a run has to stand beside: the linear baselines, fitted on round 0's features of the same slides, kept in the run.

    round 0's features ──train, validation──▶ mean, meanstd, instance ──▶ round-000/baselines.npz ──▶ test slides, hnm evaluate

All three are linear in a patch's features, or in those pooled: the file holds a few thousand numbers.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np

from hnm.aggregator.bags import Bags as BagsOnDisk
from hnm.baselines.baselines import BASELINES, LINEAR
from hnm.baselines.bounded_bags import bags_of, shown_rows
from hnm.baselines.instances import FittedInstances
from hnm.baselines.pooled import FittedPooled
from hnm.run.session import Session
from hnm.statistics.metrics import auc
from shards.files import whole_file

BASELINES_FILE = "baselines.npz"
MOST_ROWS = 50_000  # patches of all slides together, so that it takes seconds: 0.2 GB at 1,024 numbers a patch

FittedLinear = FittedPooled | FittedInstances


def fit_for_run(bags: BagsOnDisk, path: Path, session: Session) -> None:
    """Fit the linear baselines on a round's training and validation slides and write them to `path`. On rank 0 only."""
    study = session.study
    shown = shown_rows(study, session.seed, MOST_ROWS)
    train, validation = (bags_of(bags, study, slides, shown) for slides in (study.train, study.validation))
    found = {}
    for name in LINEAR:
        fitted = BASELINES[name].fit(train, validation, session.seed)
        assert isinstance(fitted, FittedLinear)
        found |= {f"{name}.{field.name}": np.asarray(getattr(fitted, field.name)) for field in fields(fitted)}
        found[f"{name} validation AUC"] = np.asarray(auc(validation.labels, fitted.slide_scores(validation)))
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **found)


def read_fitted(path: Path) -> dict[str, FittedLinear]:
    """Return the fitted baselines of a run by name."""
    with np.load(path) as found:
        return {name: _fitted(name, found) for name in LINEAR}


def validation_aucs(path: Path) -> dict[str, float]:
    """Return the baselines' slide AUC on the validation slides by name."""
    with np.load(path) as found:
        return {name: float(found[f"{name} validation AUC"]) for name in LINEAR}


def _fitted(name: str, found: Mapping[str, np.ndarray]) -> FittedLinear:
    kind = FittedInstances if name == "instance" else FittedPooled
    values = {field.name: found[f"{name}.{field.name}"] for field in fields(kind)}
    return kind(**{key: value if value.ndim else value.item() for key, value in values.items()})
