"""Did fine-tuning gain anything? A fine-tuned round against round 0, the encoder as it came, on the validation slides.

    round-000/slide_scores.npy ─┐
    round-00r/slide_scores.npy ─┴▶ difference of AUC, the same resamples of patients for both ──▶ interval ──▶ a sentence
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hnm.rounds_config import best_round
from hnm.run.study import Study
from hnm.run_rounds import home_of, round_folder, validation_of_rounds
from hnm.statistics.bootstrap import bootstrap_intervals
from hnm.statistics.metrics import auc

MISSED = 0.05  # how often the interval may miss
NUM_DRAWS = 2000  # a wide interval needs more than the usual thousand


def gain_of_finetuning(run: Path, num_rounds: int, choose: str, study: Study, seed: int) -> dict[str, Any] | None:
    """Return what the best fine-tuned round gained over round 0 in validation AUC; None: nothing was fine-tuned.

    The best of k rounds is chosen on the slides that it is judged on, so its interval covers 1 - 0.05 / k instead of 95 %
    (Bonferroni): all k intervals together miss in at most one of twenty cases.

    Args:
        run: the run directory, or a target's folder in it: its figures, of the round that all targets choose.
        num_rounds: rounds that are mined, with round 0.
        choose: rounds.choose; with "last" only the last round counts.
        study: the cohort and its parts.
        seed: of the bootstrap, which draws patients.

    Returns:
        `round`, `num_candidates` (k), `last_round`, `auc_first`, `auc`, `difference`, `low`, `high` (None: undefined),
        `num_slides`, `num_patients`, and `says`, the verdict in words.
    """
    tuned = validation_of_rounds(home_of(run), num_rounds)[1:]
    if not tuned:
        return None
    chosen, num_candidates = (num_rounds - 1, 1) if choose == "last" else (1 + best_round(tuned), len(tuned))
    slides = study.validation
    first, last = (np.load(round_folder(run, r) / "slide_scores.npy")[slides] for r in (0, chosen))
    gain = {"round": chosen, "num_candidates": num_candidates, "last_round": num_rounds - 1}
    gain |= paired_gain(study.labels[slides], first, last, study.patients_of(slides), num_candidates, seed)
    return {**gain, "says": gain_in_words(gain)}


def paired_gain(
    labels: np.ndarray, first: np.ndarray, last: np.ndarray, patients: np.ndarray, num_candidates: int, seed: int
) -> dict[str, Any]:
    """Return the AUCs of two scorings of the same slides, their difference and its interval (see `gain_of_finetuning`).

    Args:
        labels: (n,) 1 or 0.
        first: (n,) scores.
        last: (n,) scores of the one that is to be better.
        patients: (n,) whose slide it is.
        num_candidates: among how many `last` was chosen on these slides.
        seed: of the bootstrap.
    """

    def difference(rows: np.ndarray) -> dict[str, float | None]:
        before, after = auc(labels[rows], first[rows]), auc(labels[rows], last[rows])
        return {"auc": None if before is None or after is None else after - before}

    level = 1 - MISSED / num_candidates
    interval = bootstrap_intervals(difference, labels, patients, NUM_DRAWS, seed=seed, level=level)["auc"]
    return {
        "auc_first": auc(labels, first),
        "auc": auc(labels, last),
        "difference": difference(np.arange(len(labels)))["auc"],
        "low": interval.low,
        "high": interval.high,
        "num_slides": len(labels),
        "num_patients": len(np.unique(patients)),
    }


def gain_in_words(gain: Mapping[str, Any]) -> str:
    """Return the verdict and its figures as a sentence for people."""
    of = f"round {gain['round']}" + (f", the best of {gain['num_candidates']}," if gain["num_candidates"] > 1 else "")
    if gain["low"] is None:
        return f"what fine-tuning gained cannot be told: AUC is not defined on the {gain['num_slides']} validation slides"
    widened = ", wider for the choice of the round" if gain["num_candidates"] > 1 else ""
    figures = (
        f"{of} has a validation AUC of {gain['auc']:.3f}, round 0 (the encoder as it came) {gain['auc_first']:.3f}: "
        f"{gain['difference']:+.3f} (95 % interval{widened} {gain['low']:+.3f} to {gain['high']:+.3f}; "
        f"{gain['num_slides']} slides of {gain['num_patients']} patients)"
    )
    return f"{_verdict(gain)}: {figures}"


def _verdict(gain: Mapping[str, Any]) -> str:
    if gain["low"] == gain["high"] == 0:
        return "fine-tuning gained nothing that these slides could show"
    if gain["low"] > 0:
        return "fine-tuning gained"
    if gain["high"] < 0:
        return "fine-tuning harmed"
    return "whether fine-tuning gained cannot be told from these slides"
