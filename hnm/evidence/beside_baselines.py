"""How a run stands to trivial baselines that were fitted on its first features: see `hnm.baselines.of_run`."""

from pathlib import Path
from typing import Any

import numpy as np

from hnm.aggregator.bags import Bags as BagsOnDisk
from hnm.baselines.bags import Bags, Fitted
from hnm.baselines.bounded_bags import Shown, bags_of, shown_rows
from hnm.baselines.of_run import BASELINES_FILE, MOST_ROWS, FittedLinear, read_fitted, validation_aucs
from hnm.config import Config
from hnm.evidence.context import control_of
from hnm.run.session import Session
from hnm.run.study import Study
from hnm.run_rounds import choose_round, round_folder, validation_of_rounds
from hnm.statistics.bootstrap import bootstrap_intervals
from hnm.statistics.metrics import auc


def baselines_path(run: Path) -> Path:
    """Return the file of the baselines that round 0 has fitted; a run of before 2026-11-28 has none."""
    return round_folder(run, 0) / BASELINES_FILE


def baselines_part(run: Path, first: BagsOnDisk, by_slide: np.ndarray, session: Session) -> dict[str, Any]:
    """Return what metrics.json says of the baselines: their figures on the test slides, beside the run's. On rank 0 only.

    Args:
        run: the run directory.
        first: the test slides' features by round 0's encoder.
        by_slide: (S,) the run's slide scores; of slides that it missed they count for the baselines, too.
        session: of the evaluation.
    """
    study = session.study
    shown = shown_rows(study, session.seed, MOST_ROWS)
    test = bags_of(first, study, study.test, shown)
    on_validation = validation_aucs(baselines_path(run))
    figures = {
        name: {"validation_auc": on_validation[name], "chosen": fitted.chosen}
        | _of_baseline(fitted, test, shown, by_slide, session)
        for name, fitted in read_fitted(baselines_path(run)).items()
    }
    return {"methods": figures, "warnings": shown.warnings}


def _of_baseline(fitted: FittedLinear, test: Bags, shown: Shown, by_slide: np.ndarray, session: Session) -> dict[str, Any]:
    study = session.study
    theirs = by_slide.copy()
    theirs[study.test] = fitted.slide_scores(test)
    labels, groups = study.labels[study.judged], study.drawn_by(study.judged)
    ours, theirs = by_slide[study.judged], theirs[study.judged]

    def difference(rows: np.ndarray) -> dict[str, float | None]:
        both = auc(labels[rows], ours[rows]), auc(labels[rows], theirs[rows])
        return {"auc": None if both[0] is None or both[1] is None else both[0] - both[1]}

    value = difference(np.arange(len(labels)))["auc"]
    interval = bootstrap_intervals(difference, labels, groups, seed=session.seed)["auc"]
    return {
        "slide_auc": auc(labels, theirs),
        "run_minus_it": {"auc": value, "low": interval.low, "high": interval.high},
        "instance_auc": _instance_auc(fitted, test, shown, study),
        "slide_auc_without_positive_patches": context_auc(fitted, test, shown, study),
    }


def _instance_auc(fitted: FittedLinear, test: Bags, shown: Shown, study: Study) -> float | None:
    """Return the patch AUC over the shown test patches of known truth; None where none is, or no patch is scored."""
    scores = fitted.patch_scores(test)
    truth = study.cohort.patches.truth[shown.ids_of(study.test)]
    if scores is None or not np.any(truth >= 0):
        return None
    return auc(truth[truth >= 0], np.concatenate(scores)[truth >= 0])


def context_auc(fitted: Fitted, test: Bags, shown: Shown, study: Study) -> float | None:
    """Return the slide AUC on the control's slides without their positive patches (see `hnm.evidence.context`)."""
    control = control_of(study)
    if control is None:
        return None
    stay = test.split(control.stay[shown.ids_of(study.test)])
    left = [i for i, slide in enumerate(study.test) if slide in control.slides and stay[i].any()]
    bags = Bags(tuple(test.features[i][stay[i]] for i in left), test.labels[left])
    return auc(bags.labels, fitted.slide_scores(bags))


def tell_baselines(config: Config, run: Path) -> str | None:
    """Return in words how a trained run's validation AUC stands to the baselines'; None where none were fitted."""
    if not baselines_path(run).is_file():
        return None
    chosen = choose_round(config, run)
    ours = validation_of_rounds(run, chosen + 1)[chosen]["auc"]
    theirs = validation_aucs(baselines_path(run))
    told = ", ".join(f"{name} {value:.3f}" for name, value in theirs.items())
    best = max(theirs.values())
    verdict = "" if ours > best else " The run does not beat them here: what do its rounds add?"
    return f"validation slide AUC {ours:.3f} (round {chosen}); trivial baselines on round 0's features: {told}.{verdict}"
