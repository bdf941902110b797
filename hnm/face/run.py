"""Runs in Python: `hnm.open_run("run/")`: figures, predictions and patch scores, read from its files."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from hnm.config import Config, read_config
from hnm.face.cohort import OpenCohort, number_of
from hnm.face.encoder import PatchEncoder, load_encoder
from hnm.mining.coordinator import load_mined
from hnm.report.record import RunRecord, read_record
from hnm.run.checksums import read_state
from hnm.run.study import open_study
from hnm.run_rounds import encoder_of_round, round_folder
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.tiling.mpp import patch_level0_of


@dataclass(frozen=True)
class SlideScores:
    """The patches of one slide with their scores; n patches.

    Attributes:
        slide_id: the slide's name.
        patch_ids: (n,) int64.
        x_level0: (n,) int32, left edges, level-0 pixels.
        y_level0: (n,) int32, top edges, level-0 pixels.
        side_level0: side of a patch, level-0 pixels; -1: not known (features of others).
        scores: (n,) float32 in [0, 1]; NaN where a patch was not scored.
        truth: (n,) int8: 1 positive, 0 not, -1 unknown.
        slide_score: of the slide, in [0, 1]; NaN where it was not scored.
    """

    slide_id: str
    patch_ids: np.ndarray
    x_level0: np.ndarray
    y_level0: np.ndarray
    side_level0: int
    scores: np.ndarray
    truth: np.ndarray
    slide_score: float


@dataclass(frozen=True)
class OpenRun:
    """A run, opened; finished and evaluated or not.

    Attributes:
        record: what is on the disk, as the report uses it.
    """

    record: RunRecord

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.record.run

    @property
    def config(self) -> Config:
        """Its settings."""
        return self.record.config

    @property
    def cohort(self) -> OpenCohort:
        """The cohort that it was trained on."""
        return OpenCohort(self.record.study.cohort)

    @property
    def metrics(self) -> dict[str, Any] | None:
        """What hnm evaluate found on the test slides (metrics.json); None before."""
        return self.record.metrics

    @property
    def chosen_round(self) -> int:
        """The round whose model is the result, chosen on validation slides."""
        return self.record.chosen

    @property
    def slide_threshold(self) -> float:
        """The score from which a slide is called positive, chosen on validation slides."""
        return self.record.threshold

    @property
    def patch_threshold(self) -> float:
        """The score from which a patch is called positive."""
        return self.record.patch_threshold

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """A row per round: what mining.json says in numbers; validation figures as validation_auc and so on."""
        rows = []
        for decision in self.record.decisions:
            flat = {f"validation_{name}": value for name, value in decision["validation"].items()}
            rows.append(flat | {name: value for name, value in decision.items() if not isinstance(value, dict | list)})
        return pd.DataFrame(rows, index=pd.RangeIndex(len(rows), name="round"))

    def predictions(self) -> pd.DataFrame:
        """Return a row per slide with a label: slide_id, patient_id, split, label, score, predicted, status.

        Test slides have scores after hnm evaluate; before it, and of slides without a patch, score and predicted are missing.
        """
        if self.record.metrics is not None:
            frame = pq.read_table(self.path / "predictions.parquet").to_pandas()
            return frame.astype({"predicted": "Int8"})
        study, record = self.record.study, self.record
        slides = np.flatnonzero(record.split_of != "")
        scores = record.by_slide[slides]
        called = pd.array((scores >= record.threshold).astype(np.int8), dtype="Int8")
        called[np.isnan(scores)] = pd.NA
        names = {"slide_id": study.cohort.slide_ids[slides], "patient_id": record.patients[slides]}
        figures = {"split": record.split_of[slides], "label": study.labels[slides], "score": scores, "predicted": called}
        return pd.DataFrame({**names, **figures, "status": [study.status_of(slide) for slide in slides.tolist()]})

    def scores(self, slide: str, round_: int | None = None) -> SlideScores:
        """Return the patches of a slide with their scores.

        Args:
            slide: its name.
            round_: by the aggregator of this round; None: of the chosen round, with test slides after hnm evaluate.

        Raises:
            InputError: there is no such slide, or no such round.
        """
        record, cohort = self.record, self.record.study.cohort
        number = number_of(cohort, slide)
        own = slice(*cohort.patch_bounds[number : number + 2].tolist())
        by_slide = record.by_slide if round_ is None else record.slide_scores_of(self._known(round_))
        return SlideScores(
            slide,
            np.arange(own.start, own.stop),
            np.array(cohort.patches.x_level0[own]),
            np.array(cohort.patches.y_level0[own]),
            patch_level0_of(cohort, number) if cohort.has_places and own.start < own.stop else -1,
            np.array(self._by_patch(round_)[own]),
            np.array(cohort.patches.truth[own]),
            float(by_slide[number]),
        )

    def hardest_negatives(self, num: int = 20, round_: int | None = None) -> pd.DataFrame:
        """Return the mined hard negatives with the highest scores, hardest first: what the model confuses.

        Args:
            num: at most so many.
            round_: mined in this round; None: in the last.

        Returns:
            Index patch_id; slide_id, x_level0, y_level0, score by that round's aggregator.

        Raises:
            InputError: there is no such round.
        """
        round_ = self._known(self.record.num_rounds - 1 if round_ is None else round_)
        negatives, cohort = load_mined(round_folder(self.path, round_)).negatives, self.record.study.cohort
        scores = self.record.patch_scores_of(round_)[negatives]
        hardest = np.argsort(-scores, kind="stable")[:num]
        ids = np.asarray(negatives[hardest])
        columns = {"slide_id": cohort.slide_ids[cohort.patches.slide[ids]]}
        columns |= {name: getattr(cohort.patches, name)[ids] for name in ("x_level0", "y_level0")}
        return pd.DataFrame({**columns, "score": scores[hardest]}, index=pd.Index(ids, name="patch_id"))

    def encoder(self, round_: int | None = None) -> PatchEncoder:
        """Return the encoder that a round embedded with; None: of the chosen round.

        Raises:
            InputError: there is no such round, or the cohort is one of features, whose encoder is not ours.
        """
        self.record.study.cohort.require_pictures("encoder()")
        round_ = self.chosen_round if round_ is None else self._known(round_)
        return load_encoder(encoder_of_round(self.path, round_), **self.config.encoder.model_dump())

    def _by_patch(self, round_: int | None) -> np.ndarray:
        return self.record.by_patch if round_ is None else self.record.patch_scores_of(self._known(round_))

    def _known(self, round_: int) -> int:
        if not 0 <= round_ < self.record.num_rounds:
            raise InputError(f"{self.path}: there is no round {round_}; mined are 0 to {self.record.num_rounds - 1}")
        return round_


def open_run(path: Path | str, cohort: Path | str | None = None) -> OpenRun:
    """Return the run in a folder, as far as it has come; round 0 must be mined.

    Args:
        path: the run directory.
        cohort: where its cohort is now, if it has moved.

    Raises:
        InputError: it is no run directory, its cohort is not there or another one, or nothing is mined yet.
    """
    run = Path(path)
    if not (run / "state.json").is_file():
        raise InputError(f"{run}: no run directory (state.json is missing). Make one with: hnm train COHORT {run}")
    state, config = read_state(run), read_config(run / "config.yaml")
    opened = Cohort.open(Path(cohort or state["cohort"]))
    if state["fingerprint"] != opened.fingerprint:
        raise InputError(
            f"{opened.root}: its fingerprint is {opened.fingerprint}, but the run was made with {state['fingerprint']} "
            f"({state['cohort']}). Give that cohort: open_run(path, cohort=...)"
        )
    return OpenRun(read_record(run, config, open_study(opened, config.data, config.seed, "hnm.open_run")))
