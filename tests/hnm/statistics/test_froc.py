"""FROC by hand, against the challenge's procedure, and on the real outlines of Camelyon16."""

import tarfile

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm.statistics.froc import (
    RATES,
    Hits,
    Lesions,
    count_hits,
    curve_of,
    froc_draws,
    froc_score,
    hits_of,
    no_lesions,
    sensitivities,
)
from hnm.statistics.lesions import lesions_of_area
from shards.cohort.annotations import read_annotation
from tests.paths import SHARED, needs_camelyon16

CAMELYON16 = SHARED / "camelyon16" / "annotations_json.tar.xz"
MPP = 0.243


def test_detections_meet_lesions_by_hand() -> None:
    boxes = [shapely.box(0, 0, 10, 10), shapely.box(20, 0, 30, 10), shapely.box(40, 0, 41, 1)]
    lesions = Lesions(boxes, np.array([True, True, False]))
    x, y = np.array([5, 10, 25, 60, 40.5, 15]), np.array([5, 10, 50, 60, 0.5, 5])
    scores = np.array([0.2, 0.7, 0.9, 0.4, 1.0, 0.1])
    hits = hits_of(x, y, scores, lesions)
    # the first lesion's best is 0.7, on its corner; the second is missed; the third does not count, and neither does its hit
    assert hits.lesions.tolist() == [0.7, -np.inf]
    assert hits.false_positives.tolist() == [0.1, 0.4, 0.9]
    negative = hits_of(x, y, scores, no_lesions())
    assert negative.false_positives.tolist() == sorted(scores)
    assert len(negative.lesions) == 0


def test_the_score_by_hand() -> None:
    # Two slides. Thresholds down: 0.9 finds a lesion; 0.8 a false positive; 0.7 another lesion; 0.6 three false positives;
    # the third lesion is never found.
    hits = [Hits(np.array([0.6, 0.8]), np.array([0.9, -np.inf])), Hits(np.array([0.6, 0.6]), np.array([0.7]))]
    per_slide, sensitivity = curve_of(count_hits(hits))
    assert per_slide.tolist() == [0, 0, 0, 0.5, 0.5, 2]
    assert sensitivity.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 2 / 3, 2 / 3])
    at_rates = sensitivities(per_slide, sensitivity)
    assert at_rates == pytest.approx([1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert froc_score(count_hits(hits)) == pytest.approx((1 / 3 + 5 * 2 / 3) / 6)
    assert froc_score(count_hits([Hits(np.array([0.5]), np.zeros(0))])) is None
    nothing_found = [Hits(np.zeros(0), np.array([-np.inf]))]
    assert froc_score(count_hits(nothing_found)) == 0


def by_every_threshold(hits: list[Hits]) -> float:
    """The challenge's procedure: a point of the curve for every score, straight lines between them."""
    false, lesions = (np.concatenate([its[part] for its in hits]) for part in (0, 1))
    thresholds = np.unique(np.concatenate([false, lesions[np.isfinite(lesions)]]))[::-1]
    rates = [0.0, *((false >= t).sum() / len(hits) for t in thresholds)]
    found = [0.0, *((lesions >= t).sum() / len(lesions) for t in thresholds)]
    return float(np.mean(np.interp(RATES, rates, found)))


@settings(max_examples=200)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_the_curve_has_all_corners_of_the_challenges_procedure(seed: int, num_slides: int) -> None:
    random = np.random.default_rng(seed)

    def drawn(most: int) -> np.ndarray:
        return np.sort(np.round(random.random(random.integers(0, most)), 1))  # with ties

    hits = [Hits(drawn(30), np.where(random.random(3) < 0.2, -np.inf, np.round(random.random(3), 1))) for _ in range(num_slides)]
    assert froc_score(count_hits(hits)) == pytest.approx(by_every_threshold(hits))


def test_draws_repeat_slides() -> None:
    random = np.random.default_rng(0)
    hits = [Hits(np.sort(random.random(5)), random.random(row % 3)) for row in range(6)]
    weights = random.integers(3, size=(250, 6))  # more than are drawn at a time
    weights[7] = [2, 0, 0, 1, 0, 0]  # no lesion
    scores = froc_draws(count_hits(hits), weights)
    expected = [
        by_every_threshold([hits[row] for row in np.repeat(np.arange(6), drawn)])
        for drawn in weights
        if drawn @ [0, 1, 2, 0, 1, 2]
    ]
    assert scores[~np.isnan(scores)] == pytest.approx(expected)
    assert np.isnan(scores[7])


@pytest.fixture(scope="module")
def outlines(tmp_path_factory: pytest.TempPathFactory) -> list[shapely.Geometry]:
    """The annotated areas of twelve tumour slides, those of the smallest files with several outlines."""
    folder = tmp_path_factory.mktemp("outlines")
    with tarfile.open(CAMELYON16) as tar:  # in one pass: going back in an .xz unpacks it anew
        sizes = {
            member.name: member.size
            for member in tar
            if "Tumor" in member.name and member.size > 20_000 and not tar.extract(member, folder, filter="data")
        }
    names = sorted(sizes, key=lambda name: sizes[name])[:12]
    return [read_annotation(folder / name, ["negative"], None, True).area for name in names]


@needs_camelyon16
def test_camelyon16_outlines_with_detections_of_known_score(outlines: list[shapely.Geometry]) -> None:
    slides = [lesions_of_area(area, MPP) for area in outlines]
    num_lesions = sum(int(lesions.counted.sum()) for lesions in slides)
    assert num_lesions > 12
    hits, number = [], 0
    for slide, lesions in enumerate([*slides, *[no_lesions()] * 12]):  # as many negative slides
        x, y, scores = [], [], []
        for area, counted in zip(lesions.areas, lesions.counted, strict=True):
            point = area.representative_point()
            # Half of the lesions are found at 0.9, the next quarter at 0.7, the rest never; isolated cells always, at 1.
            score = (0.9 if number < num_lesions // 2 else 0.7) if number < 3 * num_lesions // 4 else None
            number += int(counted)
            if not counted or score is not None:
                x, y = [*x, point.x, point.x], [*y, point.y, point.y]
                scores += [1.0 if not counted else score, 0.1]  # a second detection in the same lesion changes nothing
        # 1 false positive at 0.8 in every second slide, and 3 at 0.6 in each: 0.5 and 3.5 a slide
        for false in ([0.8] if slide % 2 else []) + 3 * [0.6]:
            x, y, scores = [*x, -1000 - len(x)], [*y, -1000], [*scores, false]
        hits.append(hits_of(np.array(x), np.array(y), np.array(scores), lesions))
    half, three_quarters = (num_lesions // 2) / num_lesions, (3 * num_lesions // 4) / num_lesions
    assert froc_score(count_hits(hits)) == pytest.approx((half + 5 * three_quarters) / 6, abs=1e-12)


@needs_camelyon16
def test_lesions_are_wider_than_the_outlines_and_do_not_overlap(outlines: list[shapely.Geometry]) -> None:
    for area in outlines:
        lesions = lesions_of_area(area, MPP)
        together = shapely.union_all(lesions.areas)
        assert together.area == pytest.approx(sum(lesion.area for lesion in lesions.areas))
        # simplified by 1 um and widened by 37.5 um: every vertex is at least 36 um inside
        assert shapely.contains(together.buffer(1e-6), area.buffer(35 / MPP, quad_segs=1))
