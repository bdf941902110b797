"""The hardest negatives and the highest patches of a slide as a table: where they lie, and how each round scored them.

RunRecord ──▶ rows of a slide ──▶ below its heatmap in report.html, with links to their place in run/view/, where that is
                              └─▶ top_patches.csv, of all slides that were scored
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hnm.report.hardest import evaluation_of_record, hardest, negatives_of, rounds_of_record
from hnm.report.record import RunRecord
from shards.cohort.slides import slide_key
from shards.files import whole_file
from shards.tiling.mpp import patch_level0_of

TOP_FILE, VIEW_FOLDER = "top_patches.csv", "view"
NUM_IN_PAGE, NUM_IN_FILE = 5, 10
HARD, HIGH = "hardest negative", "highest patch"


@dataclass(frozen=True)
class TopPatch:
    """A patch of the table.

    Attributes:
        slide_id: full name of its slide.
        what: "hardest negative", or "highest patch" of a slide that is not negative.
        patch: its id.
        x_level0: left edge, level-0 pixels.
        y_level0: top edge, level-0 pixels.
        size_level0: side, level-0 pixels.
        score: by the chosen round.
        called: whether that is called positive.
        scores: by round, None where it was not scored.
        rank: among the patches of negative slides, 1 the hardest; None where it is none of them.
        mined: numbers of the rounds that mined it as a hard negative.
        truth: 1, 0, or -1 where it is not known.
    """

    slide_id: str
    what: str
    patch: int
    x_level0: int
    y_level0: int
    size_level0: int
    score: float
    called: bool
    scores: list[float | None]
    rank: int | None
    mined: list[int]
    truth: int

    @property
    def course(self) -> str:
        """The scores by round, in words."""
        return " → ".join("-" if score is None else f"{score:.3f}" for score in self.scores)

    def place(self, folder: Path) -> str | None:
        """Return its address in the view of its slide, seen from `folder`, None: there is no such view."""
        page = Path(VIEW_FOLDER) / "slides" / f"{slide_key(self.slide_id)}.html"
        return f"{page.as_posix()}#p={self.patch}" if (folder / page).is_file() else None


class TopPatches:
    """Makes the rows of a run's slides."""

    def __init__(self, record: RunRecord) -> None:
        self._record, self._rounds = record, rounds_of_record(record)
        self._last = evaluation_of_record(record) or self._rounds[record.chosen]

    def of_slide(self, slide: int, most: int) -> list[TopPatch]:
        """Return the `most` hardest negatives of a slide, and the `most` highest patches unless all are negative."""
        study = self._record.study
        ids, negatives = np.arange(*study.cohort.patch_bounds[slide : slide + 2]), negatives_of(study, slide)
        rows = [self._row(slide, HARD, int(patch)) for patch in hardest(self._last.scores, negatives, most)]
        if len(negatives) < len(ids):
            rows += [self._row(slide, HIGH, int(patch)) for patch in hardest(self._last.scores, ids, most)]
        return rows

    def _row(self, slide: int, what: str, patch: int) -> TopPatch:
        study, last, at = self._record.study, self._last, np.array([patch])
        patches = study.cohort.patches
        scores = [float(scoring.scores[patch]) for scoring in self._rounds]
        return TopPatch(
            slide_id=str(study.cohort.slide_ids[slide]),
            what=what,
            patch=patch,
            x_level0=int(patches.x_level0[patch]),
            y_level0=int(patches.y_level0[patch]),
            size_level0=patch_level0_of(study.cohort, slide),
            score=float(last.scores[patch]),
            called=bool(last.calls and last.scores[patch] >= np.float32(last.threshold.value)),
            scores=[None if np.isnan(score) else score for score in scores],
            rank=int(last.ranks(at)[0]) if last.is_negative[patch] else None,
            mined=[number for number, scoring in enumerate(self._rounds) if scoring.has_mined(patch)],
            truth=int(patches.truth[patch]),
        )


def write_top_patches(path: Path, top: TopPatches, slides: Iterable[int], num_rounds: int) -> None:
    """Write the rows of `slides` as CSV, whole or not at all."""
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        write = csv.writer(file).writerow
        of_rounds = [f"score_round_{number}" for number in range(num_rounds)]
        write(["slide_id", "what", "patch", "x_level0", "y_level0", "size_level0", "score", "called", *of_rounds,
               "rank_in_cohort", "mined_in_rounds", "truth", "view"])  # fmt: skip
        for slide in slides:
            for row in top.of_slide(slide, NUM_IN_FILE):
                write(_cells(row, path.parent))


def _cells(row: TopPatch, folder: Path) -> Sequence[str | int]:
    of_rounds = ["" if score is None else f"{score:.6f}" for score in row.scores]
    rank, truth = "" if row.rank is None else row.rank, "" if row.truth < 0 else row.truth
    place = row.place(folder) or ""
    where = (row.x_level0, row.y_level0, row.size_level0)
    return [row.slide_id, row.what, row.patch, *where, f"{row.score:.6f}", int(row.called), *of_rounds, rank,
            " ".join(map(str, row.mined)), truth, place]  # fmt: skip
