"""Sites dealt out by hand-made counts, against every allotment there is, and what is refused."""

from itertools import product

import numpy as np
import pytest

from shards.cohort.source_sites import (
    deal_sites,
    each_site_apart,
    fold_sites,
    linked_sites,
    patients_by_site,
    require_sites,
    site_of,
    sites_in_several,
    split_sites,
    splits_when_tested,
    unevenness,
)
from shards.errors import InputError


def drawn(num_sites: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sites, patients and kinds of some slides; every site has a positive and a negative patient."""
    random = np.random.default_rng(seed)
    sites = np.repeat([f"site-{site}" for site in range(num_sites)], random.integers(4, 20, num_sites))
    patients = np.array([f"p{number}" for number in range(len(sites))])
    positive = random.random(len(sites)) < 0.4
    first = np.unique(sites, return_index=True)[1]
    positive[first], positive[first + 1] = True, False
    return sites, patients, np.stack([positive, ~positive], axis=1)


def off_share(counts: np.ndarray, parts: np.ndarray, num_parts: int) -> float:
    """Return what `deal_sites` makes least: the largest and the mean deviation, as shares of what a part should have."""
    held = np.stack([counts[parts == part].sum(0) for part in range(num_parts)])
    wanted = counts.sum(0) / num_parts
    off = np.abs(held - wanted) / wanted
    return float(off.max() + off.mean())


@pytest.mark.parametrize("seed", range(3))
def test_no_allotment_of_few_sites_is_more_even(seed: int) -> None:
    counts = np.random.default_rng(seed).integers(1, 30, (7, 2))
    parts = deal_sites(counts, [1 / 3] * 3, seed)
    best = min(off_share(counts, np.array(its), 3) for its in product(range(3), repeat=7) if len(set(its)) == 3)
    assert off_share(counts, parts, 3) <= 1.01 * best + 1e-9


def test_folds_hold_sites_whole_and_do_not_depend_on_the_order_of_the_slides() -> None:
    sites, patients, kinds = drawn(12, seed=1)
    folds = fold_sites(sites, patients, kinds, 4, seed=5)
    assert sites_in_several(sites, folds.astype(str)) == []
    held = patients_by_site(folds, patients, kinds)
    assert (np.abs(held - held.mean(0)) <= 1.5).all()
    order = np.random.default_rng(0).permutation(len(sites))
    np.testing.assert_array_equal(fold_sites(sites[order], patients[order], kinds[order], 4, seed=5), folds[order])
    assert (fold_sites(sites, patients, kinds, 4, seed=6) != folds).any()  # another repeat is another draw
    shares = {f"fold {fold}": 0.25 for fold in range(4)}
    assert unevenness(folds, patients, kinds, ("positive", "negative"), shares).startswith("most uneven is fold ")


def test_sites_that_share_a_patient_stay_together() -> None:
    sites = np.array(["a", "b", "b", "c", "d"])
    patients = np.array(["p", "p", "q", "r", "s"])
    groups = linked_sites(patients, sites)
    assert groups[0] == groups[1] == groups[2]
    assert len(set(groups.tolist())) == 3


def test_shares_of_a_split_are_kept_by_site() -> None:
    sites, patients, kinds = drawn(15, seed=2)
    labels = [int(positive) for positive in kinds[:, 0]]
    splits = np.array(split_sites(sites, patients, labels, (0.6, 0.2, 0.2), seed=0))
    assert sites_in_several(sites, splits) == []
    for kind in kinds.T:
        share = [np.mean(splits[kind] == name) for name in ("train", "validation", "test")]
        np.testing.assert_allclose(share, (0.6, 0.2, 0.2), atol=0.05)
    assert "test" not in split_sites(sites, patients, labels, (0.7, 0.3, 0.0), seed=0)


def test_each_site_is_tested_by_itself_and_never_seen_before() -> None:
    sites, patients, kinds = drawn(6, seed=3)
    groups, parts = each_site_apart(sites, patients, kinds, 6, seed=0)
    for tested in range(6):
        splits = splits_when_tested(groups, parts, tested)
        assert sites_in_several(sites, splits) == []
        assert len(set(sites[splits == "test"])) == 1
        for name in ("train", "validation"):
            assert kinds[splits == name].any(axis=0).all()  # either kind
    with pytest.raises(InputError, match=r"--folds 5: .* each of the 6 sites .* is a fold. Give --folds 6"):
        each_site_apart(sites, patients, kinds, 5, seed=0)


def test_too_few_or_unknown_sites_are_a_clear_word() -> None:
    sites, patients, kinds = drawn(4, seed=0)
    with pytest.raises(InputError, match=r"--folds 5: there are only 4 sites, every fold needs one.*Give --folds 4, or split by"):
        fold_sites(sites, patients, kinds, 5, seed=0)
    with pytest.raises(InputError, match=r"there is only 1 site, every fold.*Split by patient"):
        fold_sites(np.full(len(sites), "here"), patients, kinds, 3, seed=0)
    one_positive = np.stack([kinds[:, 0] & (sites == "site-0"), kinds[:, 1] | (sites != "site-0")], axis=1)
    with pytest.raises(InputError, match=r"only 1 site with a positive patient"):
        fold_sites(sites, patients, one_positive, 3, seed=0)
    with pytest.raises(InputError, match=r"each_site: positive patients are of 1 sites.*Split by patient"):
        each_site_apart(sites, patients, one_positive, 4, seed=0)
    with pytest.raises(InputError, match=r"data.split_by: of 1 of 2 slides the site is not known, such as 'x'. Add a column"):
        require_sites(np.array(["", "55"]), np.array(["x", "y"]), "data.split_by")


def test_a_barcode_tells_the_site_unless_the_table_does() -> None:
    assert site_of(None, "p1", "TCGA-49-4506-01Z-00-DX3.a05a") == "49"
    assert site_of("", "tcga-mp-a4t9", "slide") == "MP"
    assert site_of("Uppsala", "TCGA-49-4506", "slide") == "Uppsala"
    assert site_of("", "patient-1", "slide-1") == ""
