"""What people have said of patches holds in mining: known negatives, known positives, and no one else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hnm.engine.ranks import single_world
from hnm.mining.coordinator import decide, load_mined, rank_cohort, unsound
from hnm.mining.mining import Mined, MiningConfig
from hnm.run.study import Study
from shards.cohort.corrections import Corrections
from tests.hnm.mining.test_coordinator import drawn_scores
from tests.hnm.worlds import part_of, tables_only_study

STUDY = tables_only_study()
CONFIG = MiningConfig(neg_ratio=0.25, positive_threshold=0.5)
POSITIVE, NEGATIVE = (STUDY.patches_of(STUDY.train[STUDY.labels[STUDY.train] == label]) for label in (1, 0))


def corrected(labels: dict[int, int]) -> Study:
    ids = np.array(sorted(labels), np.int64)
    said = np.array([labels[number] for number in ids], np.int8)
    return replace(STUDY, corrections=Corrections(ids, said, np.full(len(ids), "a file", object)))


def mined(
    study: Study, folder: Path, f1: float = 0.5, previous: Path | None = None, seed: int = 0, config: MiningConfig = CONFIG
) -> tuple[Mined, dict[str, Any]]:
    folder.mkdir()
    part = part_of(drawn_scores(seed), study, single_world())
    chosen = rank_cohort(part, study, config, folder, previous, single_world())
    assert chosen is not None
    summary = decide(chosen, {"f1": f1}, {}, study, config, 0.2, folder, previous)
    found = load_mined(folder)
    assert unsound(found) is None
    return found, summary


def test_known_patches_are_what_people_said(tmp_path: Path) -> None:
    scores = drawn_scores(0)
    wrong = POSITIVE[np.argsort(-scores[POSITIVE])[:3]]  # the candidates of the highest scores: false positives
    missed = POSITIVE[np.argsort(scores[POSITIVE])[:2]]  # far below any threshold
    easy = NEGATIVE[np.argmin(scores[NEGATIVE])]
    tumour = NEGATIVE[np.argmax(scores[NEGATIVE])]  # in a slide of label 0
    others = STUDY.patches_of(STUDY.validation)[0], STUDY.patches_of(STUDY.test)[0]
    study = corrected({**dict.fromkeys(wrong, 0), **dict.fromkeys(missed, 1), easy: 0, tumour: 1, others[0]: 0, others[1]: 1})
    before, plain = mined(STUDY, tmp_path / "plain")
    found, summary = mined(study, tmp_path / "corrected")
    assert set(wrong) <= set(before.candidates)
    assert {*wrong, easy} <= set(found.negatives)
    assert not {*wrong, easy} & set(found.candidates)
    assert {*missed, tumour} <= set(found.candidates)
    assert tumour not in found.negatives
    assert found.pseudo_labels[wrong].tolist() == [0, 0, 0]
    assert found.weights[[*wrong, easy, *missed, tumour]].tolist() == [1] * 7
    assert found.pseudo_labels[list(others)].tolist() == [-1, -1]  # no model learns from slides that choose or test
    np.testing.assert_array_equal(found.candidate_scores, scores[found.candidates])
    assert (np.diff(found.candidate_scores) <= 0).all()
    told = {"known_negatives": 4, "known_negatives_of_positive_slides": 3, "known_positives": 3}
    assert told.items() <= summary["corrections"].items()
    assert "corrections" not in plain


def test_nobody_said_anything_changes_nothing(tmp_path: Path) -> None:
    mined(STUDY, tmp_path / "plain")
    mined(corrected({int(STUDY.patches_of(STUDY.test)[0]): 1}), tmp_path / "test-only")
    for path in (tmp_path / "plain").iterdir():
        assert path.read_bytes() == (tmp_path / "test-only" / path.name).read_bytes()


def test_the_next_of_a_slide_takes_the_place_of_a_known_negative(tmp_path: Path) -> None:
    config, scores, bounds = CONFIG.model_copy(update={"candidates_per_slide": 0.3}), drawn_scores(0), STUDY.cohort.patch_bounds
    slide = STUDY.train[STUDY.labels[STUDY.train] == 1][0]
    first, stop = bounds[slide : slide + 2].tolist()
    order = first + np.argsort(-scores[first:stop], kind="stable")
    count = int(np.ceil(0.3 * (stop - first)))
    other = bounds[STUDY.train[STUDY.labels[STUDY.train] == 0][0]]  # the first patch of a negative slide: no word on its others
    before, _ = mined(STUDY, tmp_path / "plain", config=config)
    found, _ = mined(corrected({int(first): 0, int(order[0]): 0, int(other): 1}), tmp_path / "corrected", config=config)
    expected = [patch for patch in order if patch not in (first, order[0])][:count]
    assert sorted(found.candidates[(found.candidates >= first) & (found.candidates < stop)]) == sorted(expected)
    rest = [ids[(ids < first) | (ids >= stop)] for ids in (before.candidates, found.candidates)]
    assert set(rest[1]) - set(rest[0]) == {other}


def test_where_the_gate_keeps_old_labels_corrections_hold_all_the_same(tmp_path: Path) -> None:
    before, _ = mined(STUDY, tmp_path / "0", f1=0.9)
    wrong = before.candidates[:2]
    found, summary = mined(corrected(dict.fromkeys(wrong.tolist(), 0)), tmp_path / "1", 0.5, tmp_path / "0", seed=1)
    assert summary["kept_labels_of_previous_round"]
    np.testing.assert_array_equal(found.candidates, before.candidates[2:])
    np.testing.assert_array_equal(found.negatives, np.union1d(before.negatives, wrong))
    np.testing.assert_array_equal(found.candidate_scores, before.candidate_scores[2:])
