"""What a validation says of drawn scores: another stain, another prevalence, several slides a patient, parts and subgroups."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hnm.evidence.cases import Cases, by_patient, choose_part, groups_of
from hnm.evidence.validate import Plan, check, validate
from hnm.statistics.colour import COLOURS
from hnm.statistics.drift import evenly_chosen
from shards.errors import InputError

THRESHOLD = 0.5
RECORDED = {"promised": {"sensitivity": 0.9, "specificity": 0.9}, "promised_slides": {"positive": 100, "negative": 100},
            "promised_on": "its own test slides"}  # fmt: skip


def drawn(num_patients: int, shift: float = 0.0, share: float = 0.5, seed: int = 0) -> Cases:
    """Return a slide of each patient, the classes 2.6 deviations apart, all logits moved by `shift`."""
    random = np.random.default_rng(seed)
    labels = (np.arange(num_patients) < share * num_patients).astype(np.int8)
    scores = 1 / (1 + np.exp(-(random.normal(2.6 * labels - 1.3, 1) + shift)))
    names = np.array([f"p{number:03d}" for number in range(num_patients)])
    sites = np.array(["north", "south"])[np.arange(num_patients) % 2]
    columns = {"site": sites, "age": np.array([str(40 + number % 30) for number in range(num_patients)])}
    return Cases(names, names, labels, scores, np.zeros(num_patients, bool), columns)


def colours_of(cases: Cases, eosin: float) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {name: random.normal(eosin if name == "eosin" else 0.3, 0.02, len(cases)) for name in COLOURS}


def reference_of(cases: Cases) -> dict[str, Any]:
    words = {"negative": cases.labels == 0, "positive": cases.labels == 1}
    scores = {word: evenly_chosen(cases.scores[rows], 1000) for word, rows in words.items()}
    patients = {word: len(values) for word, values in scores.items()}
    values = {name: sorted(its) for name, its in colours_of(cases, 0.3).items()}
    colours = {"values": values, "patients": len(cases), "why_not": ""}
    return {"scores": {**scores, "patients": patients, "positive_share": 0.5}, "colours": colours}


def test_slides_of_another_stain_and_prevalence_have_a_threshold_that_is_off() -> None:
    then, here = drawn(120), drawn(200, shift=3.0, share=0.2, seed=1)
    recorded = {**RECORDED, "reference": reference_of(then)}
    found = validate(here, THRESHOLD, recorded, colours_of(here, 0.4), Plan())
    figures, verdict = found["frozen"]["figures"], found["verdict"]
    assert verdict["word"] == "off"
    assert "the frozen one is off here" in verdict["says"][-1]
    assert "and was 0.900 (0.824 to 0.951) on its own test slides: it has moved" in verdict["says"][1]
    assert figures["auc"] > 0.9  # the order is right, the scale is not
    assert figures["sensitivity"] > 0.95
    assert figures["specificity"] < 0.3
    assert figures["calibration_intercept"] < -2
    rechosen = found["rechosen"]
    assert rechosen["threshold"] > 0.7
    assert rechosen["flatters"]
    assert rechosen["figures"]["balanced_accuracy"] > figures["balanced_accuracy"] + 0.2
    assert 0 < rechosen["gain"]["low"] < rechosen["gain"]["mean"]
    told = " ".join(found["warnings"])
    assert "the scores of negative slides have moved" in told
    assert "the colours of the patches have moved (1 of 8 figures, medians over slides): eosin 0." in told
    assert found["drift"]["positive_share"] == {"then": 0.5, "now": pytest.approx(0.2)}


@pytest.mark.slow
def test_slides_like_its_own_have_a_threshold_that_holds() -> None:
    then, here = drawn(120), drawn(120, seed=2)
    found = validate(here, THRESHOLD, {**RECORDED, "reference": reference_of(then)}, colours_of(here, 0.3), Plan(by=["site"]))
    assert found["verdict"]["word"] == "holds"
    assert found["warnings"] == []
    assert [(group["value"], group["slides"]) for group in found["subgroups"]["site"]] == [("north", 60), ("south", 60)]
    assert found["by_patient"] is None
    older = validate(here, THRESHOLD, {}, colours_of(here, 0.3), Plan())
    assert [text.split(" is known")[0] for text in older["warnings"]] == ["no drift of the scores", "no drift of the colours"]
    assert "the export does not say what it was" in older["verdict"]["says"][0]


@pytest.mark.slow
def test_more_slides_of_the_same_patients_are_no_more_evidence() -> None:
    once = drawn(40)
    thrice = replace(once.where(np.repeat(np.arange(40), 3)), slide_ids=np.arange(120).astype(str))
    one, three = (validate(cases, THRESHOLD, RECORDED, colours_of(cases, 0.3), Plan()) for cases in (once, thrice))
    for name in ("auc", "sensitivity", "brier", "calibration_error"):
        assert three["frozen"]["intervals"][name] == pytest.approx(one["frozen"]["intervals"][name])
        assert three["by_patient"]["figures"][name] == pytest.approx(one["frozen"]["figures"][name])
    whole, num_both = by_patient(replace(once, patients=np.full(40, "one")), "mean")
    assert (len(whole), num_both, int(whole.labels[0])) == (1, 1, 1)


@pytest.mark.slow
def test_what_is_learned_from_a_part_is_measured_on_the_rest() -> None:
    here = drawn(200, shift=1.5, seed=3)
    plan = Plan(recalibrate="isotonic", part=0.4, alpha=0.1)
    found = validate(here, THRESHOLD, RECORDED, colours_of(here, 0.3), plan)
    curve, sets, rechosen = found["recalibration"], found["conformal"], found["rechosen"]
    assert curve["learned_from"]["slides"] == 80
    assert curve["measured_on"]["slides"] == sets["measured_on"]["slides"] == rechosen["slides"] == 120
    assert curve["figures"]["after_brier"] < curve["figures"]["before_brier"]
    assert curve["intervals"]["brier_gain"]["low"] > 0
    assert sum(sets["num"].values()) == 120
    assert sets["figures"]["coverage"] > 0.8
    assert (rechosen["chosen_on"], rechosen["flatters"]) == ("the part", False)
    again = choose_part(here.labels[::-1], here.patients[::-1], 0.4, 0)
    np.testing.assert_array_equal(again[::-1], choose_part(here.labels, here.patients, 0.4, 0))  # whatever the table's order


def test_groups_are_values_or_quarters_of_numbers() -> None:
    cells = np.array([str(number) for number in range(40)] + [""])
    groups = groups_of(cells, "age")
    assert [(name, int(rows.sum())) for name, rows in groups] == [
        ("to 9.75", 10), ("above 9.75 to 19.5", 10), ("above 19.5 to 29.25", 10), ("above 29.25", 10), ("(empty)", 1)
    ]  # fmt: skip
    assert [name for name, _ in groups_of(np.array(["b", "", "a"]), "site")] == ["(empty)", "a", "b"]


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (Plan(by=["hospital"]), r"--by hospital: the table of slides has no such column\. Its columns: age, site, who"),
        (Plan(by=["who"]), r"--by who: 30 values, such as 'p000', .*too many to be groups"),
        (Plan(recalibrate="isotonic"), r"--recalibrate isotonic is learned from slides that are not measured.*--part 0\.3"),
        (Plan(alpha=0.1), r"--alpha 0\.1 is learned from"),
        (Plan(part=0.1), r"--part 0\.1: 2 patients with a positive slide in the part, and at least 5.*15 such patients"),
        (Plan(part=0.5, alpha=0.05), r"--alpha 0\.05 needs 19 patients with a positive slide in the part, and there are 8"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_work(plan: Plan, told: str) -> None:
    cases = drawn(30)
    cases = replace(cases, columns={**cases.columns, "who": cases.patients})
    with pytest.raises(InputError, match=told):
        check(cases, plan)


def test_one_class_and_a_missed_slide_are_told() -> None:
    here = drawn(30)
    negative = here.where(here.labels == 0)
    found = validate(negative, THRESHOLD, RECORDED, colours_of(negative, 0.3), Plan())
    assert found["frozen"]["figures"]["auc"] is None
    assert found["frozen"]["figures"]["specificity"] > 0.5
    assert found["verdict"]["word"] == "cannot be judged"
    assert found["warnings"][0].startswith("no slide is positive: AUC, AUPRC and calibration slope are unknown")
    missed = replace(here, missed=np.arange(30) == 0, scores=np.where(np.arange(30) == 0, 0.0, here.scores))
    found = validate(missed, THRESHOLD, RECORDED, colours_of(missed, 0.3), Plan())
    assert (found["missed"], found["without_missed"]["slides"]) == (1, 29)
