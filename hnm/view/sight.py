"""What the pages of a view say, as plain values: of one slide, and of all of them.

RunRecord ──▶ Sight ──slide_values──▶ JSON of a slide's page: patches, scores by round, hardest, mined, outlines
                    ──index_values──▶ the slides, errors first; the cohort's hardest negatives of each round; what became of them
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import shapely

from hnm.report.hardest import (
    Scoring,
    evaluation_of_record,
    follow,
    hardest,
    negatives_of,
    of_slide,
    rounds_of_record,
)
from hnm.report.page import name_of
from hnm.report.pictures import scored_patches, true_area
from hnm.report.record import RunRecord
from hnm.report.run_report import slides_in_order
from hnm.report.table import RESULTS, SlideRow, SlideTable
from hnm.view.ground import OVERLAP_PX, TILE_PX, Ground
from shards.cohort.slides import slide_key

NUM_LISTED = 30  # patches in a slide's list
NUM_OF_COHORT = 16  # patches a round in the index
COLUMNS = (
    ("slide", "text", "name of the slide; a link to its view"),
    ("split", "text", "only test slides were not looked at before"),
    ("label", "number", "slide label: 1 positive, 0 negative"),
    ("score", "number", "slide score, 0 to 1"),
    ("result", "text", "is what it is called its label?"),
    ("hard negatives", "text", "how many each round mined in it"),
    ("called", "number", "its negative patches that the last scores call positive"),
    ("highest", "number", "highest score of its negative patches"),
    ("remark", "text", "why it was dropped"),
)


@dataclass(frozen=True)
class Sight:
    """A run to look at."""

    record: RunRecord

    @cached_property
    def rounds(self) -> list[Scoring]:
        """What each round scored and mined."""
        return rounds_of_record(self.record)

    @cached_property
    def evaluation(self) -> Scoring | None:
        """The scores that the test slides have, too; None before `hnm evaluate`."""
        return evaluation_of_record(self.record)

    def scorings_of(self, slide: int) -> list[Scoring]:
        """Return the scorings that know a slide: the rounds, or, of a test slide, the evaluation alone."""
        own = slice(*self.record.study.cohort.patch_bounds[slide : slide + 2])
        known = [scoring for scoring in self.rounds if np.isfinite(scoring.scores[own]).any()]
        last = self.evaluation
        return known or ([last] if last is not None and np.isfinite(last.scores[own]).any() else [])

    @cached_property
    def slides(self) -> list[int]:
        """The slides that have a view: those that were scored, wrong ones first."""
        order = slides_in_order(self.record)
        called = self.record.by_slide >= self.record.threshold
        labels = self.record.study.labels
        return sorted(order, key=lambda slide: bool(labels[slide] < 0 or called[slide] == (labels[slide] == 1)))

    def first_slides(self, most: int) -> list[int]:
        """Return the `most` slides to look at first: wrong ones, up to half, then those of the cohort's hardest negatives."""
        wrong = [slide for slide in self.slides if _result(self.record, slide) == "wrong"][: most // 2]
        slide_of = self.record.study.cohort.patches.slide
        hard = [int(slide_of[patch]) for _, ids in reversed(self.hardest_of_cohort()) for patch in ids]
        return list(dict.fromkeys([*wrong, *hard, *self.slides]))[:most]

    def name(self, slide: int) -> str:
        return str(self.record.study.cohort.slide_ids[slide])

    def place(self, slide: int) -> str:
        """Return the address of a slide's page in the view's folder."""
        return f"slides/{slide_key(self.name(slide))}.html"

    def listed(self, slide: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return by scoring the ids of a slide's hardest negatives, and, unless all are negative, of its highest patches."""
        study, scorings = self.record.study, self.scorings_of(slide)
        ids, negatives = np.arange(*study.cohort.patch_bounds[slide : slide + 2]), negatives_of(study, slide)
        hard = [hardest(scoring.scores, negatives, NUM_LISTED) for scoring in scorings]
        return hard, [hardest(s.scores, ids, NUM_LISTED) if len(negatives) < len(ids) else ids[:0] for s in scorings]

    def hardest_of_cohort(self) -> list[tuple[Scoring, np.ndarray]]:
        """Return the rounds, each with the hardest of what it mined."""
        return [(scoring, hardest(scoring.scores, scoring.negatives, NUM_OF_COHORT)) for scoring in self.rounds]


def slide_values(sight: Sight, slide: int, ground: Ground, pictures: Sequence[int] | None) -> dict[str, Any]:
    """Return what a slide's page says, as JSON knows it; patches are counted from the slide's first.

    Args:
        sight: the run.
        slide: its number.
        ground: what its page stands on.
        pictures: ids of the patches that have a picture; None: all have.
    """
    record, study = sight.record, sight.record.study
    first = int(study.cohort.patch_bounds[slide])
    patches, (hard, high) = scored_patches(record, slide), sight.listed(slide)
    ids = np.arange(first, first + len(patches.scores))
    scorings = sight.scorings_of(slide)
    truth = study.cohort.patches.truth[ids]
    return {
        "first": first,
        "size": patches.size_level0,
        "x": patches.x_level0.tolist(),
        "y": patches.y_level0.tolist(),
        "truth": truth.tolist() if (truth >= 0).any() else None,
        "negative": negatives_of(study, slide).tolist() == ids.tolist(),
        "ground": {
            "width": ground.width, "height": ground.height, "level0_per_px": ground.level0_per_px,
            "tile": TILE_PX, "overlap": OVERLAP_PX, "last": ground.last_level,
        },
        "outlines": _rings(true_area(record, slide)),
        "pictures": None if pictures is None else [int(each) - first for each in pictures],
        "scorings": [
            {
                "name": scoring.name,
                "threshold": scoring.threshold.value if scoring.calls else None,
                "source": scoring.threshold.source,
                "scores": _scores(scoring.scores[ids]),
                "ranks": scoring.ranks(ids).tolist(),
                "num_ranked": len(scoring.of_negatives),
                "negatives": (of_slide(scoring.negatives, study, slide) - first).tolist(),
                "candidates": (of_slide(scoring.candidates, study, slide) - first).tolist(),
                "hard": (of_hard - first).tolist(),
                "high": (of_high - first).tolist(),
            }
            for scoring, of_hard, of_high in zip(scorings, hard, high, strict=True)
        ],
    }  # fmt: skip


def page_values(sight: Sight, slide: int, ground: Ground, shown: set[int]) -> dict[str, Any]:
    """Return the words above and beside a slide's picture; `shown` are the slides that have a page."""
    record, scorings = sight.record, sight.scorings_of(slide)
    label = int(record.study.labels[slide])
    order = [each for each in sight.slides if each in shown]
    at = order.index(slide)
    neighbours = {"before": order[at - 1] if at else None, "after": order[at + 1] if at + 1 < len(order) else None}
    return {
        "run": name_of(record.run),
        "slide": sight.name(slide),
        "key": slide_key(sight.name(slide)),
        "split": str(record.split_of[slide]) or "no split",
        "label": str(label) if label >= 0 else "unknown",
        "score": float(record.by_slide[slide]),
        "threshold": record.threshold,
        "result": _result(record, slide),
        "ground": ground.words,
        "followed": follow(scorings, lambda ids: of_slide(ids, record.study, slide)),
        "scorings": [scoring.name for scoring in scorings],
        "calls": any(scoring.calls for scoring in scorings),
        **{name: None if other is None else slide_key(sight.name(other)) for name, other in neighbours.items()},
    }


def index_values(sight: Sight, shown: set[int], has_picture: Callable[[int], bool]) -> dict[str, Any]:
    """Return what the index says.

    Args:
        sight: the run.
        shown: slides that have a page.
        has_picture: tells of a patch id whether its picture is there.
    """
    record = sight.record
    slide_of = record.study.cohort.patches.slide
    return {
        "run": name_of(record.run),
        "table": _table(sight, shown),
        "num_shown": len(shown),
        "num_scored": len(sight.slides),
        "followed": follow(sight.rounds),
        "scorings": [scoring.name for scoring in sight.rounds],
        "calls": any(scoring.calls for scoring in sight.rounds),
        "hardest": [
            {
                "name": scoring.name,
                "num_mined": len(scoring.negatives),
                "threshold": scoring.threshold if scoring.calls else None,
                "patches": [
                    {
                        "id": int(patch),
                        "slide": sight.name(int(slide_of[patch])),
                        "href": f"{sight.place(int(slide_of[patch]))}#p={patch}" if int(slide_of[patch]) in shown else None,
                        "has_picture": has_picture(int(patch)),
                        "course": [_step(later, int(patch)) for later in sight.rounds],
                    }
                    for patch in ids
                ],
            }
            for scoring, ids in sight.hardest_of_cohort()
        ],
    }


def _step(scoring: Scoring, patch: int) -> tuple[str, bool]:
    """Return a patch's score in a round in words, and whether that is called positive."""
    score = float(scoring.scores[patch])
    return ("-" if np.isnan(score) else f"{score:.2f}"), bool(scoring.calls and score >= scoring.threshold.value)


def _table(sight: Sight, shown: set[int]) -> SlideTable:
    record = sight.record
    scored = set(sight.slides)
    without = [slide for slide in range(record.study.cohort.num_slides) if slide not in scored]
    rows = [_row(sight, slide, slide in shown) for slide in (*sight.slides, *without)]
    choices = {"split": [str(name) for name in np.unique(record.split_of) if name], "result": RESULTS}
    return SlideTable(COLUMNS, rows, choices, "name, remark", "slides")


def _row(sight: Sight, slide: int, is_shown: bool) -> SlideRow:
    record, study = sight.record, sight.record.study
    label, score, status = int(study.labels[slide]), float(record.by_slide[slide]), study.status_of(slide)
    scorings = sight.scorings_of(slide)
    negatives = negatives_of(study, slide)
    last = scorings[-1].scores[negatives] if scorings and len(negatives) else np.empty(0)
    mined = [len(of_slide(scoring.negatives, study, slide)) for scoring in scorings]
    calls = bool(scorings) and scorings[-1].calls
    cells = {
        "slide": sight.name(slide),
        "split": str(record.split_of[slide]),
        "label": "" if label < 0 else str(label),
        "score": "" if np.isnan(score) else f"{score:.3f}",
        "result": _result(record, slide),
        "hard negatives": " → ".join(map(str, mined)) if any(mined) else "",
        "called": str(int((last >= np.float32(scorings[-1].threshold.value)).sum())) if calls and len(last) else "",
        "highest": f"{np.nanmax(last):.3f}" if np.isfinite(last).any() else "",
        "remark": "" if status == "done" else status,
    }
    percent = 0.0 if np.isnan(score) else 100 * score
    return SlideRow(cells, sight.place(slide) if is_shown else None, percent, bool(score >= record.threshold))


def _result(record: RunRecord, slide: int) -> str:
    label, score = int(record.study.labels[slide]), float(record.by_slide[slide])
    if label < 0 or np.isnan(score):
        return "none"
    return "right" if (score >= record.threshold) == (label == 1) else "wrong"


def _scores(scores: np.ndarray) -> list[float | None]:
    """Return scores as JSON knows them, no bit lost, for a threshold lies just above one: NaN is null."""
    return [None if np.isnan(score) else float(f"{score:.9g}") for score in np.asarray(scores, np.float32)]


def _rings(area: shapely.Geometry | None) -> list[list[list[float]]]:
    """Return the rings of an area, corners in level-0 pixels, to a tenth of one."""
    if area is None or area.is_empty:
        return []
    polygons = [polygon for polygon in shapely.get_parts(area) if polygon.geom_type == "Polygon"]
    rings = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.interiors)]
    return [np.round(shapely.get_coordinates(ring), 1).tolist() for ring in rings]
