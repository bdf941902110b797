"""What a run has left on disk, read for people: the report's pictures and tables are made from it, and from nothing else.

    config.yaml, state.json, events.jsonl, round-*/ ──▶ RunRecord ◀── metrics.json, predictions.parquet (after hnm evaluate)

A run that is not evaluated, or not finished, is read as far as it has come.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hnm.config import Config
from hnm.engine.ranks import single_world
from hnm.evidence.evaluate import read_metrics
from hnm.evidence.gain import gain_of_finetuning
from hnm.evidence.patch_threshold import PatchThreshold, patch_threshold_of
from hnm.mining.coordinator import read_decision, read_scores
from hnm.run.broken import read_broken
from hnm.run.checksums import EVALUATED_FILES, read_state, require_whole
from hnm.run.study import Study
from hnm.run_rounds import choose_round, home_of, last_round, round_folder
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.tiling.tile_config import TileConfig


@dataclass(frozen=True)
class RunRecord:
    """One run.

    Attributes:
        run: the run directory.
        config: its configuration; the section tile is the cohort's own (see `with_tile_of`).
        study: its cohort and roles.
        decisions: mining.json of the rounds done so far, in order; at least one.
        chosen: the round whose model is the result, as far as is known.
        metrics: metrics.json, None before `hnm evaluate`.
        by_slide: (S,) float64 slide scores of the chosen round, NaN where a slide was not scored.
        by_patch: (N,) float32 patch scores of the chosen round, NaN likewise.
    """

    run: Path
    config: Config
    study: Study
    decisions: list[dict[str, Any]]
    chosen: int
    metrics: dict[str, Any] | None
    by_slide: np.ndarray
    by_patch: np.ndarray

    @property
    def num_rounds(self) -> int:
        """Rounds that have been scored and mined; a run of r fine-tunings ends with r + 1."""
        return len(self.decisions)

    @property
    def is_finished(self) -> bool:
        return last_round(self.config, self.run) == self.num_rounds - 1

    @property
    def threshold(self) -> float:
        """The slide threshold, chosen on validation slides."""
        return float(self.decisions[self.chosen]["validation"]["threshold"])

    @property
    def patch_threshold(self) -> float:
        """The score from which a patch is called positive."""
        return self.chosen_patch_threshold.value

    @cached_property
    def chosen_patch_threshold(self) -> PatchThreshold:
        """That score, and what it was chosen on."""
        rate = self.config.rounds.patch_false_positive_rate
        return patch_threshold_of(self.metrics, self.by_patch, self.study, rate)

    @property
    def intervals(self) -> dict[str, Any]:
        """By figure of the slides the bootstrap interval in metrics.json; empty before `hnm evaluate`."""
        metrics = self.metrics or {}
        return {"auc": metrics.get("slide_auc_interval"), **metrics.get("slide_intervals", {})}

    @property
    def judged(self) -> tuple[str, np.ndarray]:
        """The name and the slide numbers of the split that shows how good the model is: test, once it has been read."""
        if self.metrics is not None:
            judged = self.study.judged  # an evaluation of before 2026-11-28 has no score of slides that it missed
            return "test", judged[np.isfinite(self.by_slide[judged])]
        return "validation", self.study.validation

    @cached_property
    def split_of(self) -> np.ndarray:
        """(S,) str: train, validation, test, or "" for slides that take no part."""
        names = self.study.split_of.copy()
        names[self.study.missed] = "test"
        return names

    @cached_property
    def knows_truth(self) -> bool:
        """Is it known of any patch whether it is positive? Figures that need it are left away where it is not."""
        return bool((self.study.cohort.patches.truth >= 0).any())

    @cached_property
    def patients(self) -> np.ndarray:
        """(S,) the patient of each slide."""
        return np.asarray(self.study.cohort.slides["patient_id"].to_numpy())

    @property
    def home(self) -> Path:
        """The run directory; `run` may be the folder of one of its targets."""
        return home_of(self.run)

    @cached_property
    def state(self) -> dict[str, Any]:
        """state.json; of a target's folder that of the run, whose phases are all."""
        return read_state(self.home)

    @cached_property
    def gain(self) -> dict[str, Any] | None:
        """What fine-tuning gained on the validation slides so far; None: nothing was fine-tuned yet."""
        return gain_of_finetuning(self.run, self.num_rounds, self.config.rounds.choose, self.study, self.config.seed)

    @cached_property
    def broken(self) -> np.ndarray:
        """(b,) int64 ids of the patches that could not be read, in training or in `hnm evaluate`."""
        return read_broken(self.home)

    @cached_property
    def environment(self) -> dict[str, Any]:
        path = self.home / "environment.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        events = read_events(self.home / "events.jsonl")
        of = read_state(self.run)["target"] if self.home != self.run else None
        return [event for event in events if event.get("target", of) == of]

    def slide_scores_of(self, round_: int) -> np.ndarray:
        """Return a round's (S,) slide scores, NaN for slides that were not embedded then."""
        return np.asarray(np.load(round_folder(self.run, round_) / "slide_scores.npy"))

    def patch_scores_of(self, round_: int) -> np.ndarray:
        """Return a round's (N,) patch scores, NaN for patches that were not scored then."""
        return read_scores(round_folder(self.run, round_))


def read_record(run: Path, config: Config, study: Study) -> RunRecord:
    """Read a run as far as it has come.

    Raises:
        InputError: not even round 0 has been mined, or a file is damaged.
    """
    decisions: list[dict[str, Any]] = []
    while (folder := round_folder(run, len(decisions))).joinpath("mining.json").is_file():
        decisions.append(read_decision(folder))
    if not decisions:
        raise InputError(f"{run}: round 0 is not mined yet, there is nothing to show. Run the same hnm train again")
    so_far = config.rounds.model_copy(update={"num_rounds": len(decisions) - 1})
    chosen = choose_round(config.model_copy(update={"rounds": so_far}), run)
    require_whole([*_read_of_round(run, chosen), *(run / name for name in EVALUATED_FILES)], run, single_world())
    metrics = read_metrics(run) if (run / "metrics.json").is_file() else None
    by_slide = np.load(round_folder(run, chosen) / "slide_scores.npy")
    by_patch = read_scores(round_folder(run, chosen))
    if metrics is not None:
        chosen = metrics["chosen_round"]
        by_slide, by_patch = _predicted(run, study), np.load(run / "patch_scores.npy")
    return RunRecord(run, with_tile_of(study.cohort, config), study, decisions, chosen, metrics, by_slide, by_patch)


def _read_of_round(run: Path, round_: int) -> list[Path]:
    return [round_folder(run, round_) / name for name in ("mining.json", "scores.npy", "slide_scores.npy")]


def with_tile_of(cohort: Cohort, config: Config) -> Config:
    """Return the configuration with the settings that the cohort was tiled with.

    Nothing in training asks for them, so the section tile of a run's own config.yaml may be that of another cohort.
    """
    settings = cohort.info.get("settings", {})
    known = {name: value for name, value in settings.items() if name in TileConfig.model_fields}
    return config.model_copy(update={"tile": TileConfig.model_validate(known)})


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a run; a last line that a crash has cut short is left out."""
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events


def _predicted(run: Path, study: Study) -> np.ndarray:
    """Return the (S,) slide scores of predictions.parquet."""
    table = pq.read_table(run / "predictions.parquet", columns=["slide_id", "score"])
    score_of = dict(zip(table["slide_id"].to_pylist(), table["score"].to_pylist(), strict=True))
    return np.array([score_of.get(slide_id, np.nan) for slide_id in study.cohort.slide_ids], np.float64)
