"""What rank 0 decides, what it writes, and that every rank is told the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hnm.engine.ranks import single_world
from hnm.mining.coordinator import MINED_ARRAYS, decide, load_mined, rank_cohort, read_decision, share_mined, summarise
from hnm.mining.mining import Mined, MiningConfig
from shards.errors import InputError
from shards.files import write_array
from tests.hnm.conftest import OnRanks
from tests.hnm.worlds import part_of, tables_only_study

STUDY = tables_only_study()
CONFIG = MiningConfig(neg_ratio=0.25, positive_threshold=0.5)


def drawn_scores(seed: int) -> np.ndarray:
    scores = np.random.default_rng(seed).random(STUDY.cohort.num_patches, np.float32)
    scores[STUDY.patches_of(STUDY.test)] = np.nan
    return scores


def decided(
    scores: np.ndarray, validation: dict[str, Any], config: MiningConfig, folder: Path, previous: Path | None
) -> dict[str, Any]:
    """Rank and decide on one rank."""
    world = single_world()
    chosen = rank_cohort(part_of(scores, STUDY, world), STUDY, config, folder, previous, world)
    assert chosen is not None
    return decide(chosen, validation, {}, STUDY, config, 0.2, folder, previous)


def same(mined: Mined, other: Mined) -> bool:
    return all(np.array_equal(getattr(mined, name), getattr(other, name)) for name in MINED_ARRAYS)


def test_mined_sets_are_the_same_on_every_rank_of_1_2_and_3(phases_on_ranks: OnRanks) -> None:
    expected = phases_on_ranks(1)[0]["mined"]
    assert len(expected.candidates) > 10
    for size in (2, 3):
        for result in phases_on_ranks(size):
            assert same(result["mined"], expected)
            for name in MINED_ARRAYS:
                assert getattr(result["mined"], name).dtype == getattr(expected, name).dtype


def test_a_decision_by_hand_and_on_disk(tmp_path: Path) -> None:
    scores = drawn_scores(0)
    summary = decided(scores, {"f1": 0.7}, CONFIG, tmp_path, None)
    assert read_decision(tmp_path) == summary
    mined = load_mined(tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), scores)
    negatives = STUDY.patches_of(STUDY.train[STUDY.labels[STUDY.train] == 0])
    count = int(np.ceil(0.25 * len(negatives)))
    hardest = negatives[np.argsort(-scores[negatives])[:count]]
    np.testing.assert_array_equal(mined.negatives, np.sort(hardest))
    positives = STUDY.patches_of(STUDY.train[STUDY.labels[STUDY.train] == 1])
    candidates = positives[scores[positives] > 0.5]
    np.testing.assert_array_equal(np.sort(mined.candidates), candidates)
    best = candidates[np.argsort(-scores[candidates])[: int(np.ceil(0.2 * len(candidates)))]]
    truth = STUDY.cohort.patches.truth
    assert summary["witness_rate_self_paced"] == pytest.approx(truth[best].mean())
    assert summary["witness_rate_candidates"] == pytest.approx(truth[candidates].mean())
    assert summary["num_scored"] == len(STUDY.patches_of(STUDY.embedded_slides))
    assert summary["hard_negative_threshold"] == pytest.approx(scores[hardest].min())
    assert (summary["num_hard_negatives"], summary["num_candidates"]) == (count, len(candidates))
    assert (summary["num_self_paced"], summary["best_validation_f1"]) == (len(best), 0.7)
    assert not summary["kept_labels_of_previous_round"]


def test_a_share_of_easy_negatives_gives_them_a_weight(tmp_path: Path) -> None:
    decided(drawn_scores(0), {"f1": 0.7}, CONFIG.model_copy(update={"hard_share": 0.5}), tmp_path, None)
    mined = load_mined(tmp_path)
    negatives = STUDY.patches_of(STUDY.train[STUDY.labels[STUDY.train] == 0])
    assert len(mined.negatives) == int(np.ceil(0.25 * len(negatives)))  # still the hard ones
    easy = np.setdiff1d(negatives, mined.negatives)
    expected = np.float16(len(mined.negatives) / len(easy))  # both kinds together weigh the same
    np.testing.assert_array_equal(mined.weights[easy], expected)


@pytest.mark.parametrize(("f1", "gate", "kept"), [(0.6, True, True), (0.7, True, False), (0.6, False, False)])
def test_a_worse_aggregator_does_not_replace_the_labels(tmp_path: Path, f1: float, gate: bool, kept: bool) -> None:
    config = CONFIG.model_copy(update={"gate_on_validation": gate})
    folders = [tmp_path / str(round_) for round_ in range(2)]
    decided(drawn_scores(0), {"f1": 0.7}, config, folders[0], None)
    summary = decided(drawn_scores(1), {"f1": f1}, config, folders[1], folders[0])
    assert summary["kept_labels_of_previous_round"] is kept
    assert same(load_mined(folders[1]), load_mined(folders[0])) is kept
    assert summary["best_validation_f1"] == 0.7
    np.testing.assert_array_equal(
        np.load(folders[1] / "scores.npy"), drawn_scores(1)
    )  # the scores are of this round anyway


def test_scores_may_remember_the_round_before(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"score_memory": 0.3})
    decided(drawn_scores(0), {"f1": 0.7}, config, tmp_path / "0", None)
    decided(drawn_scores(1), {"f1": 0.7}, config, tmp_path / "1", tmp_path / "0")
    expected = 0.3 * drawn_scores(0) + 0.7 * drawn_scores(1)
    np.testing.assert_allclose(np.load(tmp_path / "1" / "scores.npy"), expected, rtol=1e-6)


def test_the_summary_of_nothing() -> None:
    n = STUDY.cohort.num_patches
    none = np.empty(0, np.int64)
    nothing = Mined(np.zeros(n, np.int8), np.zeros(n, np.float16), none, none, np.empty(0, np.float32))
    summary = summarise(nothing, drawn_scores(0), np.full(n, -1, np.int8), CONFIG, 0.2)
    assert (summary["num_hard_negatives"], summary["num_self_paced"]) == (0, 0)
    assert summary["hard_negative_threshold"] is None
    assert summary["witness_rate_candidates"] is None


def test_one_process_reads_what_was_written(tmp_path: Path) -> None:
    decided(drawn_scores(3), {"f1": 0.7}, CONFIG, tmp_path, None)
    assert same(share_mined(tmp_path, single_world()), load_mined(tmp_path))


def test_a_run_without_negatives_on_disk_is_read_by_its_weights(tmp_path: Path) -> None:
    decided(drawn_scores(0), {"f1": 0.7}, CONFIG.model_copy(update={"hard_share": 0.5}), tmp_path, None)
    written = load_mined(tmp_path)
    (tmp_path / "negatives.npy").unlink()  # as before they were stored
    assert same(share_mined(tmp_path, single_world()), written)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_real_valued_weights_are_shared_as_they_are(tmp_path: Path, dtype: type) -> None:
    decided(drawn_scores(0), {"f1": 0.7}, CONFIG.model_copy(update={"hard_share": 0.5}), tmp_path, None)
    mined, factor = load_mined(tmp_path), 0.9 if np.issubdtype(dtype, np.floating) else 40
    given = (mined.weights.astype(np.float64) * factor).astype(dtype)
    write_array(tmp_path / "weights.npy", given)
    shared = share_mined(tmp_path, single_world())
    np.testing.assert_array_equal(shared.weights, given)
    np.testing.assert_array_equal(shared.negatives, mined.negatives)  # whatever the weights are


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda mined: {"negatives": mined.negatives[:0]}, "no negative to fine-tune on"),
        (lambda mined: {"weights": -mined.weights}, "weights.npy: sampling weights are numbers from 0 up"),
        (lambda mined: {"weights": np.where(mined.weights > 0, np.nan, mined.weights)}, "or NaN"),
        (lambda mined: {"weights": mined.weights[:-1]}, "weights.npy has 201 weights, pseudo_labels.npy 202 labels"),
        (lambda mined: {"weights": mined.weights * 0}, "weights.npy gives 0, which is never drawn, to patches of negatives.npy"),
        (lambda mined: {"negatives": mined.negatives + 10**6}, "negatives.npy names patches that are not among the 202"),
        (lambda mined: {"candidates": mined.negatives}, "candidates.npy names patches that pseudo_labels.npy does not give 1"),
        (lambda mined: {"weights": np.arange(1, 203) / 202}, "gives the candidates different weights"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, change: Callable[[Mined], dict[str, np.ndarray]], told: str) -> None:
    decided(drawn_scores(0), {"f1": 0.7}, CONFIG, tmp_path, None)
    for name, array in change(load_mined(tmp_path)).items():
        write_array(tmp_path / f"{name}.npy", array)
    with pytest.raises(InputError, match=told):
        share_mined(tmp_path, single_world())
