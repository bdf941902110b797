"""Which hospital a slide comes from, and folds in which no hospital is twice.

    site of slides.csv, or TCGA-[49]-4506 ──▶ site of each slide ──linked where a patient has two──▶ patients by site and kind
                                                     milp: each site in one fold, kinds as even as can be ──▶ fold of each slide

A hospital's stain, scanner and patients are alike, and a network knows them again: with slides of one hospital on both sides
of a split figures are too good (Howard et al., Nature Communications 2021, on TCGA).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from shards.cohort.slides import SPLITS
from shards.errors import InputError

SplitBy = Literal["patient", "site", "each_site"]
# https://gdc.cancer.gov/resources-tcga-users/tcga-code-tables/tissue-source-site-codes
IN_BARCODE = re.compile(r"TCGA-([A-Z0-9]{2})-", re.IGNORECASE | re.ASCII)
MAX_NAMED = 3
MAX_NODES = 200  # of the search: a second or two for 33 sites; what it finds later is better by fractions of a patient
MOST_PARTS = 5  # of the sites that are not tested, one of which validates


def site_in_name(name: str) -> str:
    """Return the tissue source site of a TCGA barcode, such as "49", "" of any other name."""
    match = IN_BARCODE.match(name)
    return match[1].upper() if match else ""


def site_of(told: str | None, patient_id: str, slide_id: str) -> str:
    """Return where a slide is from: what the table tells, else TCGA's barcode, else ""."""
    return told or site_in_name(patient_id) or site_in_name(slide_id)


def require_sites(sites: np.ndarray, slide_ids: np.ndarray, key: str) -> None:
    """Refuse slides of unknown sites where sites are asked for.

    Args:
        sites: (S,) str, "" where it is not known.
        slide_ids: (S,) their names.
        key: the setting that asks.

    Raises:
        InputError: naming some, and the remedy.
    """
    without = slide_ids[sites == ""]
    if len(without):
        some = ", ".join(repr(str(name)) for name in without[:MAX_NAMED]) + (" ..." if len(without) > MAX_NAMED else "")
        raise InputError(
            f"{key}: of {len(without)} of {len(sites)} slides the site is not known, such as {some}. Add a column site to "
            f"slides.csv (TCGA's barcodes tell it without one) and tile again, which cuts nothing anew; or set {key}=patient"
        )


def linked_sites(patients: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """Return the group of sites that each slide belongs to, (S,) int64 from 0: sites that share a patient are one group.

    Args:
        patients: (S,) whose slide it is.
        sites: (S,) where it is from.
    """
    from scipy.sparse import coo_array  # here: it takes a moment that most commands need not spend
    from scipy.sparse.csgraph import connected_components

    names, of_slide = np.unique(sites, return_inverse=True)
    num_patients = len(np.unique(patients))
    own = np.unique(patients, return_inverse=True)[1]
    size = len(names) + num_patients
    edges = coo_array((np.ones(len(sites), np.int8), (of_slide, len(names) + own)), shape=(size, size))
    _, component = connected_components(edges, directed=False)
    return np.unique(component[of_slide], return_inverse=True)[1].astype(np.int64)


def deal_sites(counts: np.ndarray, shares: Sequence[float], seed: int, needed: int = 2) -> np.ndarray:
    """Deal sites out to parts, so that each part has as nearly as can be its share of every kind of patients.

    Mixed integer programming: x[s, p] is 1 where site s is in part p. Least is the sum of the largest deviation and the mean
    one, each a share of what the part should have. Another seed puts the sites in another order, and among allotments that are
    nearly as even another one is found.

    Args:
        counts: (G, K) patients of each kind in each group of sites.
        shares: (P,) of each part, summing to 1.
        seed: another seed, another draw.
        needed: how many kinds, the first ones, every part needs a patient of.

    Returns:
        (G,) int64, the part of each group.

    Raises:
        InputError: some part would have no patient of a kind that it needs.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # here, as above

    from shards.seeding import numpy_generator  # torch: 2 s

    order = numpy_generator(seed, "sites").permutation(len(counts))
    counts = counts[order].astype(np.float64)
    num_groups, num_parts = len(counts), len(shares)
    wanted = np.outer(shares, counts.sum(0))  # (P, K)
    num_chosen, num_off = num_groups * num_parts, wanted.size
    matrix, low, high = _constraints(counts, wanted, needed)
    cost = np.zeros(num_chosen + num_off + 1)
    cost[num_chosen:-1] = (1 / np.maximum(wanted, 1)).ravel() / num_off
    cost[-1] = 1
    lowest = np.zeros_like(cost)
    # no part can be nearer to its share than a whole number is: the search then knows when it is done
    least_off = np.minimum(wanted % 1, -wanted % 1)
    lowest[num_chosen:-1], lowest[-1] = least_off.ravel(), (least_off / np.maximum(wanted, 1)).max()
    highest = np.full_like(cost, np.inf)
    highest[:num_chosen] = _first_sites_first(counts, shares).ravel()
    found = milp(
        cost,
        constraints=LinearConstraint(matrix, low, high),
        bounds=Bounds(lowest, highest),
        integrality=np.arange(len(cost)) < num_chosen,
        options={"node_limit": MAX_NODES, "mip_rel_gap": 0.01},  # not a time limit: a slower machine draws the same
    )
    if found.x is None:
        raise InputError(
            f"{num_groups} sites cannot be dealt out to {num_parts} parts so that each has a positive and a negative patient. "
            "Ask for fewer parts, or split by patient"
        )
    parts = np.empty(num_groups, np.int64)
    parts[order] = found.x[:num_chosen].reshape(num_groups, num_parts).argmax(1)
    return parts


def _constraints(counts: np.ndarray, wanted: np.ndarray, needed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return matrix, lowest and highest values: of x (G * P), deviations (P * K) and the largest share of a deviation (1)."""
    (num_groups, num_kinds), num_parts = counts.shape, len(wanted)
    num_chosen, num_off = num_groups * num_parts, wanted.size
    of_parts = np.zeros((num_parts, num_kinds, num_groups, num_parts))  # what part p has of kind k
    for part in range(num_parts):
        of_parts[part, :, :, part] = counts.T
    held = of_parts.reshape(num_off, num_chosen)
    once = np.kron(np.eye(num_groups), np.ones(num_parts))
    off, nothing = np.eye(num_off), np.zeros((num_off, 1))
    relative = np.diag((1 / np.maximum(wanted, 1)).ravel())
    blocks = [
        (np.hstack([once, np.zeros((num_groups, num_off + 1))]), np.ones(num_groups), np.ones(num_groups)),
        (np.hstack([held, -off, nothing]), np.full(num_off, -np.inf), wanted.ravel()),
        (np.hstack([held, off, nothing]), wanted.ravel(), np.full(num_off, np.inf)),
        (np.hstack([np.zeros_like(held), relative, nothing - 1]), np.full(num_off, -np.inf), np.zeros(num_off)),
        (np.hstack([held, off * 0, nothing]), np.tile(np.arange(num_kinds) < needed, num_parts), np.full(num_off, np.inf)),
    ]
    matrices, low, high = zip(*blocks, strict=True)
    return np.vstack(matrices), np.concatenate(low), np.concatenate(high)


def _first_sites_first(counts: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Return which site may be in which part, (G, P): of parts with equal shares any order is the same, and one is enough."""
    may = np.ones((len(counts), len(shares)))
    if len(set(shares)) == 1:
        for place, group in enumerate(np.argsort(-counts.sum(1), kind="stable")[: len(shares) - 1]):
            may[group, place + 1 :] = 0
    return may


def patients_by_site(groups: np.ndarray, patients: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return how many patients of each kind each group of sites has, (G, K) int64; a patient is of a kind if a slide of his is.

    Args:
        groups: (S,) int, see `linked_sites`.
        patients: (S,) whose slide it is.
        kinds: (S, K) bool.
    """
    _, first, own = np.unique(patients, return_index=True, return_inverse=True)
    of_patient = np.zeros((len(first), kinds.shape[1]), bool)
    np.logical_or.at(of_patient, own, kinds)
    counts = np.zeros((groups.max() + 1, kinds.shape[1]), np.int64)
    np.add.at(counts, groups[first], of_patient)
    return counts


def fold_sites(
    sites: np.ndarray, patients: np.ndarray, kinds: np.ndarray, num_folds: int, seed: int, what: str = "--folds"
) -> np.ndarray:
    """Deal slides out to folds by site, and as even as can be in patients of each kind; return the fold of each, (S,) int64.

    Args:
        sites: (S,) where a slide is from; none is "".
        patients: (S,) whose it is; sites that share a patient stay together.
        kinds: (S, K) bool; of the first two, positive and negative, every fold needs a patient.
        num_folds: how many.
        seed: another seed, another draw.
        what: the option that asks for so many, for the error.

    Raises:
        InputError: there are too few sites.
    """
    groups = linked_sites(patients, sites)
    counts = patients_by_site(groups, patients, kinds)
    having = {"": len(counts), " with a positive patient": int((counts[:, 0] > 0).sum())}
    having[" with a negative patient"] = int((counts[:, 1] > 0).sum())
    for which, number in having.items():
        if number < num_folds:
            linked = "" if len(np.unique(sites)) == len(counts) else " (sites that share a patient count as one)"
            most = min(having.values())
            remedy = f"Give {what} {most}, or split by patient" if most >= 3 else "Split by patient"
            raise InputError(
                f"{what} {num_folds}: there {'is' if number == 1 else 'are'} only {number} site{'' if number == 1 else 's'}"
                f"{which}{linked}, every fold needs one, and none may be in two. {remedy}"
            )
    return np.asarray(deal_sites(counts, [1 / num_folds] * num_folds, seed)[groups])


def split_sites(
    sites: np.ndarray, patients: np.ndarray, labels: Sequence[int | None], shares: Sequence[float], seed: int
) -> list[str]:
    """Draw a split for each slide, "train", "validation" or "test": sites whole, each split near its share of every kind.

    Args:
        sites: (S,) where a slide is from; none is "".
        patients: (S,) whose it is; sites that share a patient stay together.
        labels: (S,) 1, 0 or None (unknown).
        shares: (3,) of each split, summing to 1; with 0 it gets no slide.
        seed: another seed, another draw.

    Raises:
        InputError: a split would have no positive or no negative patient.
    """
    kinds = np.array([[label == 1, label == 0, label is None] for label in labels])
    groups, used = linked_sites(patients, sites), [place for place, share in enumerate(shares) if share > 1e-9]
    needed = 2 if kinds[:, :2].any(axis=0).all() else 0  # tables for prediction have one kind, or none
    parts = deal_sites(patients_by_site(groups, patients, kinds), [shares[place] for place in used], seed, needed)
    return [SPLITS[used[part]] for part in parts[groups].tolist()]


def each_site_apart(
    sites: np.ndarray, patients: np.ndarray, kinds: np.ndarray, num_folds: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return which site is tested in which fold, and in which of some parts each site is; both (S,) int64.

    The part before that of the tested site validates, the others train, see `splits_when_tested`. Arguments as of `fold_sites`.

    Raises:
        InputError: there are not as many folds as sites, or too few sites.
    """
    groups = linked_sites(patients, sites)
    num_sites = int(groups.max()) + 1
    if num_sites != num_folds:
        raise InputError(
            f"--folds {num_folds}: with data.split_by=each_site each of the {num_sites} sites with labelled slides is a fold. "
            f"Give --folds {num_sites}"
        )
    counts = patients_by_site(groups, patients, kinds)
    num_parts = min(MOST_PARTS, *(counts[:, :2] > 0).sum(0))
    if num_parts < 3:
        raise InputError(
            f"data.split_by=each_site: positive patients are of {(counts[:, 0] > 0).sum()} sites, negative ones of "
            f"{(counts[:, 1] > 0).sum()}, and training, validation and test need some of three sites each. Split by patient"
        )
    return groups, fold_sites(sites, patients, kinds, num_parts, seed)


def splits_when_tested(groups: np.ndarray, parts: np.ndarray, tested: int) -> np.ndarray:
    """Return the split of each slide, (S,) str, when the site `tested` is; arguments are what `each_site_apart` returns."""
    part = int(parts[groups == tested][0])
    validates = parts == (part - 1) % (parts.max() + 1)
    return np.where(groups == tested, "test", np.where(validates, "validation", "train"))


def unevenness(
    parts: np.ndarray, patients: np.ndarray, kinds: np.ndarray, kind_words: Sequence[str], shares: Mapping[str, float]
) -> str:
    """Return the largest imbalance in words: which part has how many patients of which kind, and what its share is.

    Args:
        parts: (S,) int, the part of each slide.
        patients: (S,) whose it is.
        kinds: (S, K) bool.
        kind_words: (K,) what these are called.
        shares: of each part, by its name.
    """
    held = patients_by_site(parts, patients, kinds)
    wanted = np.outer(list(shares.values()), held.sum(0))
    off = np.abs(held - wanted) / np.maximum(wanted, 1)
    part, kind = np.unravel_index(off.argmax(), off.shape)
    return (
        f"most uneven is {list(shares)[part]} with {held[part, kind]} of {held[:, kind].sum()} {kind_words[kind]} patients, "
        f"where its share is {wanted[part, kind]:.1f}"
    )


def sites_in_several(sites: np.ndarray, splits: np.ndarray) -> list[str]:
    """Return the sites that are in more than one split, in order; "" is no site and no split."""
    known = (sites != "") & (splits != "")
    pairs = np.unique(np.stack([sites[known].astype(str), splits[known].astype(str)]), axis=1)
    names, counts = np.unique(pairs[0], return_counts=True)
    return [str(name) for name in names[counts > 1]]
