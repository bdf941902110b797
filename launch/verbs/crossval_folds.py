"""The folds of a cross-validation: drawn from the cohort by patient or by site (data.split_by), and told."""

import numpy as np
import pyarrow as pa

from hnm.config import Config
from hnm.evidence.folds import Drawn, Folds, is_same_draw
from shards.cohort.cohort import Cohort


def folds_of(config: Config, cohort: Cohort, num_folds: int, repeat: int) -> Folds:
    """Draw the folds of a repeat.

    Raises:
        InputError: there are too few patients or sites, or a site is not known.
    """
    return _drawn(cohort, config).folds(config.data.split_by, num_folds, config.seed + repeat)


def drawn_by(cohort: Cohort, config: Config) -> pa.Table:
    """Return what the folds are drawn by, for `hnm.run.seen.changes`."""
    drawn = _drawn(cohort, config)
    columns = {"slide_id": cohort.slides["slide_id"], "patient_id": drawn.patients, "label": drawn.labels}
    return pa.table(columns if config.data.split_by == "patient" else {**columns, "site": drawn.sites})


def folds_told(config: Config, cohort: Cohort, num_folds: int, num_repeats: int) -> list[str]:
    """Return how even folds by site are, a line per repeat, and a word where a repeat is no other draw; nothing by patient."""
    if config.data.split_by == "patient":
        return []
    folds = [folds_of(config, cohort, num_folds, repeat) for repeat in range(num_repeats)]
    lines = [f"repeat {repeat}: {its.says}" for repeat, its in enumerate(folds)]
    same = [str(repeat) for repeat in range(1, num_repeats) if is_same_draw(folds[repeat], folds[0])]
    if same and config.data.split_by == "site":
        lines.append(f"warning: repeats {', '.join(same)} have the folds of repeat 0: so few sites leave no other draw as even")
    return lines


def site_of_slides(cohort: Cohort, config: Config) -> dict[str, str] | None:
    """Return the hospital of each slide, None where folds are by patient."""
    if config.data.split_by == "patient":
        return None
    return dict(zip(cohort.slide_ids.tolist(), cohort.sites.tolist(), strict=True))


def _drawn(cohort: Cohort, config: Config) -> Drawn:
    labels = np.where(cohort.patches_per_slide > 0, cohort.labels(config.data.one_column("hnm crossval")), -1)
    return Drawn(cohort.slide_ids, cohort.slides["patient_id"].to_numpy(), labels, cohort.sites)
