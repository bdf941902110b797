"""Cross-validation as arrays: which fold tests which slide, what may train, and what the folds say together.

    patients ──stratified deal──▶ fold of each slide ──▶ split of each slide in each fold:
                                                         its own fold tests it, the one before validates by it, else it trains
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from hnm.run.study import Study
from shards.cohort.source_sites import (
    SplitBy,
    each_site_apart,
    fold_sites,
    require_sites,
    sites_in_several,
    splits_when_tested,
    unevenness,
)
from shards.cohort.splits import fold_columns, fold_patients
from shards.errors import InputError


@dataclass(frozen=True)
class Folds:
    """The folds of one repeat.

    Attributes:
        of_slide: (S,) int64, the fold that tests each slide; -1: it takes no part.
        num: how many there are.
        parts: with a site a fold: (S,) int64, the part of each slide, see `shards.cohort.source_sites`.
        says: how even they are, in words; "" where they are drawn by patient.
    """

    of_slide: np.ndarray
    num: int
    parts: np.ndarray | None = None
    says: str = ""

    def splits(self, fold: int) -> list[str | None]:
        """Return the split of each slide when `fold` is tested: test, validation, train, or None where it takes no part."""
        if self.parts is None:
            return splits_of_fold(self.of_slide, fold, self.num)
        words = splits_when_tested(self.of_slide, self.parts, fold).tolist()
        return [word if own >= 0 else None for word, own in zip(words, self.of_slide.tolist(), strict=True)]


@dataclass(frozen=True)
class Drawn:
    """What folds are drawn by: (S,) each; `sites` is "" where it is not known, `labels` are 1, 0, or -1: takes no part."""

    slide_ids: np.ndarray
    patients: np.ndarray
    labels: np.ndarray
    sites: np.ndarray

    def folds(self, split_by: SplitBy, num_folds: int, seed: int) -> Folds:
        """Draw folds by patient or by site.

        Raises:
            InputError: there are too few patients or sites, or a site is not known.
        """
        if split_by == "patient":
            return Folds(draw_folds(self.patients, self.labels, num_folds, seed), num_folds)
        used = np.flatnonzero(self.labels >= 0)
        sites, patients = self.sites[used], self.patients[used]
        require_sites(sites, self.slide_ids[used], "data.split_by")
        names, own = np.unique(patients, return_inverse=True)
        kinds = np.stack([self.labels[used] == label for label in (1, 0)], axis=1)
        _require_patients(num_folds, *(np.bincount(own[kind], minlength=len(names)) > 0 for kind in kinds.T))
        folds, parts = np.full((2, len(self.labels)), -1)
        told = f"{len(np.unique(sites))} sites, "
        if split_by == "each_site":
            folds[used], parts[used] = each_site_apart(sites, patients, kinds, num_folds, seed)
            return Folds(folds, num_folds, parts, f"{told}each tested by itself; {parts.max() + 1} parts validate in turn")
        folds[used] = fold_sites(sites, patients, kinds, num_folds, seed)
        shares = {f"fold {fold}": 1 / num_folds for fold in range(num_folds)}
        told += f"none in two folds; {unevenness(folds[used], patients, kinds, ('positive', 'negative'), shares)}"
        return Folds(folds, num_folds, None, told)


def is_same_draw(a: Folds, b: Folds) -> bool:
    """Return whether two draws put the same slides together, whatever the numbers of the folds."""
    num_pairs = np.unique(np.stack([a.of_slide, b.of_slide]), axis=1).shape[1]
    return num_pairs == len(np.unique(a.of_slide)) == len(np.unique(b.of_slide))


def draw_folds(patients: np.ndarray, labels: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """Return the fold of each slide, (S,) int64, -1 for slides without a label.

    All slides of a patient are in one fold; each fold has nearly the same number of positive patients (those with a positive
    slide), and of the others. Where the others are fewer than the folds, patients with slides of both labels stand in for
    them: these are then dealt out evenly, too. The draw does not depend on the order of the slides.

    Args:
        patients: (S,) whose slide it is.
        labels: (S,) 1, 0, or -1: takes no part.
        num_folds: how many.
        seed: another seed, another draw.

    Raises:
        InputError: there are fewer than three folds, or too few patients for them.
    """
    used = np.flatnonzero(labels >= 0)
    names, patient_of = np.unique(patients[used], return_inverse=True)
    is_positive, is_negative = (np.bincount(patient_of[labels[used] == label], minlength=len(names)) > 0 for label in (1, 0))
    _require_patients(num_folds, is_positive, is_negative)
    # Dealt like cards in this order: positive slides only, both, negative ones only. Those with a positive slide are then
    # neighbours, and so are those with a negative one: as many neighbours as there are folds reach every fold.
    mixed_apart = (~is_positive).sum() < num_folds  # else drawn as ever, so that folds of before are found again
    ranks = np.stack([is_positive, is_positive & ~is_negative & mixed_apart], axis=1).astype(int)
    of_patient = np.array(fold_patients([tuple(rank) for rank in ranks.tolist()], num_folds, seed))
    folds = np.full(len(labels), -1)
    folds[used] = of_patient[patient_of]
    return folds


def _require_patients(num_folds: int, is_positive: np.ndarray, is_negative: np.ndarray) -> None:
    if num_folds < 3:
        raise InputError(
            f"--folds {num_folds}: at least 3 are needed. One fold tests, one chooses round and thresholds, the rest trains"
        )
    counts = {
        "with a labelled slide": len(is_positive),
        "with a positive slide": int(is_positive.sum()),
        "with a negative slide": int(is_negative.sum()),
    }
    for what, count in counts.items():
        if count < num_folds:
            most = min(counts.values())
            remedy = f"Give --folds {most}" if most >= 3 else "The cohort is too small to cross-validate"
            raise InputError(
                f"--folds {num_folds}: there are only {count} patients {what}, and every fold needs one. {remedy}"
            )


def splits_of_fold(folds: np.ndarray, fold: int, num_folds: int) -> list[str | None]:
    """Return the split of each slide when `fold` is tested: test, validation, train, or None where it takes no part."""
    words = [fold_columns(own, num_folds)[fold] for own in range(num_folds)]
    return [words[own] if own >= 0 else None for own in folds.tolist()]


def require_no_leak(study: Study, patients: np.ndarray, sites: np.ndarray | None = None) -> None:
    """Assert, before anything trains, that no patient, no patch and, where folds are by site, no site is on two sides.

    Args:
        study: the cohort and its parts.
        patients: (S,) whose slide it is.
        sites: (S,) where it is from; None: folds are by patient.

    Raises:
        InputError: naming what leaks.
    """
    parts = {"train": study.train, "validation": study.validation, "test": study.test}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = np.intersect1d(patients[parts[first]], patients[parts[second]])
        if len(shared):
            raise InputError(f"leak: patient {str(shared[0])!r} has slides in {first} and in {second}")
    if sites is not None and (several := sites_in_several(sites, study.split_of)):
        raise InputError(f"leak: site {several[0]!r} has slides in more than one split")
    _require_trains_only(study, study.encoder_patches, "patches of the encoder's training set")
    if len(np.setdiff1d(study.encoder_patches, study.patches_of(study.train))):
        raise InputError("leak: the encoder would be trained on patches of slides that do not train")


def require_clean_run(run: Path, study: Study) -> int:
    """Assert, on the ids in a trained run's files, that no validation or test patch was sampled, and no test slide scored.

    Args:
        run: its folder.
        study: the cohort and its parts.

    Returns:
        How many patches were sampled in any round.

    Raises:
        InputError: naming what leaked.
    """
    sampled = np.zeros(study.cohort.num_patches, bool)
    for folder in sorted(run.glob("round-*")):
        if not (folder / "mining.json").is_file():
            continue
        ids = np.flatnonzero(np.load(folder / "weights.npy", mmap_mode="r") > 0)
        _require_trains_only(study, ids, f"patches with a sampling weight in {folder}")
        labelled = np.flatnonzero(np.load(folder / "pseudo_labels.npy", mmap_mode="r") >= 0)
        _require_trains_only(study, labelled, f"patches with a pseudo label in {folder}")
        if np.isfinite(np.load(folder / "slide_scores.npy")[study.test]).any():
            raise InputError(f"leak: test slides were scored in {folder}, before the evaluation")
        sampled[ids] = True
    return int(sampled.sum())


def _require_trains_only(study: Study, ids: np.ndarray, what: str) -> None:
    for name, slides in (("validation", study.validation), ("test", study.test)):
        leaked = ids[study.mask_of(slides)[ids]]
        if len(leaked):
            slide = study.cohort.slide_ids[study.cohort.patches.slide[leaked[0]]]
            raise InputError(
                f"leak: {len(leaked)} {what} belong to {name} slides, such as patch {leaked[0]} of {slide!r}. "
                "Set data.encoder_splits=[train]"
            )


def over_folds(values: list[float], num_folds: int) -> dict[str, Any]:
    """Return the mean of a figure over folds (of all repeats) with its 95 % interval.

    Folds share most of their training slides, so they are no independent trials: the variance is corrected for that
    (Nadeau and Bengio, Machine Learning 2003): s^2 (1/n + test slides / training slides), and Student's t with n - 1 degrees.

    Args:
        values: of the n folds that define it.
        num_folds: of one repeat; a fold trains on num_folds - 2 of them.
    """
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return {"mean": mean, "low": None, "high": None, "num": n}
    half = student.ppf(0.975, n - 1) * np.std(values, ddof=1) * np.sqrt(1 / n + 1 / (num_folds - 2))
    return {"mean": mean, "low": float(mean - half), "high": float(mean + half), "num": n}
