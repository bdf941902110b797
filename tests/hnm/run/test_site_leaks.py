"""Sites in several splits are told where splits were to be by site, and intervals are by site where these are many."""

import numpy as np

from hnm.run.site_leaks import few_sites_warning, site_warnings
from hnm.run.study import DataConfig, Study, open_study
from tests.hnm.run.test_study import with_column
from tests.hnm.worlds import tables_only_cohort

WHOLE = ["a"] * 5 + ["b"] * 5 + ["c"] * 4 + ["d"] * 4  # slides 0 to 9 train, 10 to 13 validate, 14 to 17 are tested


def study_of(sites: list[str], split_by: str = "site") -> Study:
    return open_study(with_column(tables_only_cohort(), "site", list(sites)), DataConfig(split_by=split_by), 0)


def test_a_site_in_two_splits_is_told_where_it_was_not_to_be() -> None:
    assert site_warnings(study_of(WHOLE)) == []
    shared = [*WHOLE[:14], "a", "c", "d", "d"]
    (warning,) = site_warnings(study_of(shared))
    assert warning.startswith("data.split_by=site, but slides of 2 of 4 sites (a, c) are in more than one split")
    assert site_warnings(study_of(shared, "patient")) == []
    (unknown,) = site_warnings(study_of(["", *WHOLE[1:]]))
    assert "of 1 slides the site is not known" in unknown


def test_intervals_are_by_site_where_sites_are_many() -> None:
    study = study_of(WHOLE)
    np.testing.assert_array_equal(study.drawn_by(study.test), study.patients_of(study.test))
    assert few_sites_warning(study)[0].startswith("the intervals are by patient, for the test slides are of 1 known site ")
    many = study_of([f"site-{slide}" for slide in range(18)])
    slides = np.arange(18)
    np.testing.assert_array_equal(many.drawn_by(slides), [f"site-{slide}" for slide in range(18)])
    by_patient = study_of([f"site-{slide}" for slide in range(18)], "patient")
    np.testing.assert_array_equal(by_patient.drawn_by(slides), by_patient.patients_of(slides))
    assert few_sites_warning(by_patient) == []
