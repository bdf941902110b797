"""Fine-tuning against the encoder as it came: a gain that is there is found, noise is called noise."""

from pathlib import Path

import numpy as np

from hnm.engine.ranks import single_world
from hnm.evidence.evaluate import read_metrics
from hnm.evidence.gain import gain_in_words, gain_of_finetuning, paired_gain
from tests.tiny import tiny_config, tiny_session

LABELS = np.arange(40) % 2
PATIENTS = np.array([f"p{i}" for i in range(40)])


def gain(first: np.ndarray, last: np.ndarray, num_candidates: int = 1) -> dict[str, object]:
    found = paired_gain(LABELS, first, last, PATIENTS, num_candidates, seed=0)
    return {"round": 2, "num_candidates": num_candidates, **found}


def test_verdicts_by_hand() -> None:
    noise = np.random.default_rng(0).random((3, 40))
    good = LABELS + 0.1 * noise[0]
    found = gain(noise[1], good)
    assert found["auc"] == 1.0
    assert found["low"] > 0
    assert gain_in_words(found).startswith("fine-tuning gained: round 2 has a validation AUC of 1.000, round 0")
    assert gain_in_words(gain(good, noise[1])).startswith("fine-tuning harmed: ")
    assert "that these slides could show" in gain_in_words(gain(good, good))
    between = gain(noise[1], noise[2])
    assert between["low"] < 0 < between["high"]
    assert "cannot be told from these slides" in gain_in_words(between)


def test_the_best_of_several_has_a_wider_interval() -> None:
    noise = np.random.default_rng(1).random((2, 40))
    one, four = (gain(noise[0], noise[1] + 0.3 * LABELS, num) for num in (1, 4))
    assert four["low"] < one["low"]
    assert four["high"] > one["high"]
    assert "the best of 4," in gain_in_words(four)
    assert "wider for the choice" in gain_in_words(four)


def test_slides_of_one_class_tell_nothing() -> None:
    found = paired_gain(np.ones(3, int), np.arange(3.0), np.arange(3.0), PATIENTS[:3], 1, seed=0)
    assert "cannot be told" in gain_in_words({"round": 1, "num_candidates": 1, **found})


def test_an_evaluated_run_says_it_everywhere(evaluated_run: Path, tiny_cohort: Path) -> None:
    says = read_metrics(evaluated_run)["gain"]["says"]
    assert "round 0 (the encoder as it came)" in says
    assert says in (evaluated_run / "model" / "MODEL.md").read_text()
    assert says[1:] in (evaluated_run / "report.html").read_text()
    with tiny_session(single_world(), tiny_cohort, tiny_config()) as session:
        assert gain_of_finetuning(evaluated_run, 1, "validation", session.study, 0) is None  # nothing was fine-tuned yet
        last = gain_of_finetuning(evaluated_run, 3, "last", session.study, 0)
    assert last is not None
    assert (last["round"], last["num_candidates"]) == (2, 1)
