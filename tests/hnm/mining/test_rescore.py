"""Rounds that score some patches anew: which ones, what happens to the others, the same on any ranks and after a stop."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from hnm.engine.ranks import single_world
from hnm.mining.coordinator import AGES, keep_old_scores, read_decision, read_scores
from hnm.mining.mining import MiningConfig, choose
from hnm.mining.rescore import RESCORED, is_full, mark_rescored
from hnm.rounds import check_batches
from hnm.rounds_config import RoundsConfig
from hnm.run.phase import read_state
from hnm.run.slide_rows import ChosenRows
from hnm.run.study import open_study
from hnm.run_rounds import round_folder
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.files import write_array, write_json
from tests.hnm.conftest import OnRanks
from tests.hnm.test_rounds import CutJournal, PowerCut, go_on
from tests.hnm.worlds import tables_only_study
from tests.tiny import results_of, tiny_config

STUDY = tables_only_study()
ADAPTIVE = ("rounds.rescore=adaptive", "rounds.rescore_share=0.6", "rounds.rescore_full_every=2")


def drawn_scores() -> np.ndarray:
    scores = np.random.default_rng(0).random(STUDY.cohort.num_patches, np.float32)
    scores[STUDY.patches_of(STUDY.test)] = np.nan
    return scores


def test_full_rounds_by_hand() -> None:
    config = RoundsConfig(num_rounds=5, rescore="adaptive", rescore_full_every=3)
    assert [is_full(config, round_) for round_ in range(6)] == [True, False, False, True, False, True]
    assert all(is_full(RoundsConfig(num_rounds=5), round_) for round_ in range(6))


@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_the_highest_and_some_others_are_scored_anew_and_validation_whole(share: float) -> None:
    scores = drawn_scores()
    chosen = mark_rescored(scores, STUDY, share, 0, 1)
    assert chosen[STUDY.patches_of(STUDY.validation)].all()
    assert not chosen[STUDY.patches_of(STUDY.test)].any()
    train = STUDY.patches_of(STUDY.train)
    assert chosen[train].sum() == np.ceil(share * len(train) - 1e-9)
    negatives = STUDY.patches_of(STUDY.train[STUDY.labels[STUDY.train] == 0])
    highest = negatives[np.argsort(-scores[negatives])[: int(0.9 * share * len(negatives))]]
    assert chosen[highest].all()
    for slide in STUDY.train:
        own = STUDY.patches_of(np.array([slide]))
        assert chosen[own[np.argmax(scores[own])]]  # no bag is empty
    assert np.array_equal(chosen, mark_rescored(scores, STUDY, share, 0, 1))
    assert share == 1 or not np.array_equal(chosen, mark_rescored(scores, STUDY, share, 0, 2))


def test_rows_of_chosen_patches_by_hand() -> None:
    rows = ChosenRows(np.array([0, 3, 4, 9], np.int32), np.array([0, 2, 4, 6, 10]), np.array([0, 1, 2, 3]))
    assert (rows.num_rows, rows.per_slide.tolist(), rows.ids(1, 3).tolist()) == (4, [1, 1, 1, 1], [3, 4])


def test_old_scores_are_kept_with_their_age(tmp_path: Path) -> None:
    nan = np.nan
    write_array(tmp_path / "0" / "scores.npy", np.array([0.1, 0.2, 0.3, nan], np.float32))
    for round_, new in enumerate(([nan, 0.5, nan, nan], [nan, nan, 0.9, nan]), start=1):
        scores = np.array(new, np.float32)
        fresh = keep_old_scores(scores, tmp_path / str(round_), tmp_path / str(round_ - 1))
        assert fresh.tolist() == np.isfinite(new).tolist()
        write_array(tmp_path / str(round_) / "scores.npy", scores)
    np.testing.assert_array_equal(scores, np.array([0.1, 0.5, 0.9, nan], np.float32))
    assert np.load(tmp_path / "2" / AGES).tolist() == [2, 1, 0, 0]


@pytest.mark.parametrize("candidates_per_slide", [0.0, 0.5])
def test_what_is_mined_is_among_the_new_scores(candidates_per_slide: float) -> None:
    scores, config = drawn_scores(), MiningConfig(neg_ratio=0.4, candidates_per_slide=candidates_per_slide)
    fresh = mark_rescored(scores, STUDY, 0.5, 0, 1)
    scores[~fresh] = 2  # as of another aggregator
    chosen = choose(scores, STUDY.kinds, STUDY.cohort.patch_bounds, config, fresh)
    assert fresh[chosen.negatives].all()
    assert fresh[chosen.candidates].all()
    assert len(chosen.candidates)
    every = choose(scores, STUDY.kinds, STUDY.cohort.patch_bounds, config)
    assert len(chosen.negatives) == len(every.negatives)  # as many as of a full round


def test_an_adaptive_round_is_the_same_on_1_2_and_3_ranks(phases_on_ranks: OnRanks) -> None:
    expected = phases_on_ranks(1)[0]["rescored"]
    assert 0 < np.count_nonzero(expected["ages"]) < len(expected["ages"])
    for size in (2, 3):
        found = phases_on_ranks(size)[0]["rescored"]
        for name in ("ids", "features", "ages"):
            np.testing.assert_array_equal(found[name], expected[name])
        np.testing.assert_allclose(found["scores"], expected["scores"], rtol=1e-5)


def after_round_0(finished_run: Path, run: Path) -> Path:
    shutil.copytree(finished_run, run)
    state = read_state(run)
    phases = [record for record in state["phases"] if record["round"] == 0]
    files = {name: value for name, value in state["files"].items() if not name.startswith(("round-001", "round-002"))}
    write_json(run / "state.json", {**state, "phases": phases, "files": files})
    for round_ in (1, 2):
        shutil.rmtree(round_folder(run, round_))
    return run


def test_an_adaptive_round_in_a_run_stopped_and_continued(finished_run: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    run, stopped = (after_round_0(finished_run, tmp_path / name) for name in ("run", "stopped"))
    go_on(run, tiny_cohort, overrides=ADAPTIVE)
    for how in ({"within": ("embed", 2)}, {"before": ("mine", 1)}):
        with pytest.raises(PowerCut):
            go_on(stopped, tiny_cohort, CutJournal(stopped, **how), ADAPTIVE)  # type: ignore[arg-type]
    go_on(stopped, tiny_cohort, overrides=ADAPTIVE)
    assert results_of(stopped) == results_of(run)
    folders = [round_folder(run, round_) for round_ in range(3)]
    ids, ages = np.load(folders[1] / RESCORED), np.load(folders[1] / AGES)
    assert (ages[ids] == 0).all()
    before, after = read_scores(folders[0]), read_scores(folders[1])
    np.testing.assert_array_equal(after[ages == 1], before[ages == 1])
    assert np.isin(np.load(folders[1] / "negatives.npy"), ids).all()
    told = [read_decision(folder).get("rescore") for folder in folders]
    share = (58 + 32) / 128  # of 96 patches that train and 32 of validation
    assert told[1] == {"full": False, "share_rescored": share, "hard_negatives_within_adaptive": None}
    assert (told[2]["full"], told[2]["share_rescored"]) == (True, 1.0)
    cohort_study = open_study(Cohort.open(tiny_cohort), tiny_config().data, 0)
    would = mark_rescored(after, cohort_study, 0.6, 0, 2)
    assert told[2]["hard_negatives_within_adaptive"] == would[np.load(folders[2] / "negatives.npy")].mean()
    assert not (folders[2] / AGES).exists()


def test_a_share_below_that_of_the_hard_negatives_is_refused() -> None:
    config = tiny_config("rounds.rescore=adaptive", "rounds.rescore_share=0.4", "mining.neg_ratio=0.5", "finetune.batch_size=4")
    with pytest.raises(InputError, match=r"rounds\.rescore_share is 0\.4, less than mining\.neg_ratio 0\.5"):
        check_batches(config, STUDY, single_world())
