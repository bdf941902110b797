"""What benchmarks.variants makes of the folds' figures: other numbers of rounds, figures that a fold leaves open, names."""

import json
from pathlib import Path

import pytest

from benchmarks.variants import FIGURES, figures_of, main, summary, table


def rounds_of(*slide_aucs: list[float | None]) -> list[dict[int, dict[str, float]]]:
    """By round, of each fold the validation slides' AUC; None is left open."""
    key = "validation_slide_auc"
    return [{i: {} if value is None else {key: value} for i, value in enumerate(folds)} for folds in slide_aucs]


def test_variants_are_compared_in_the_rounds_that_both_have() -> None:
    three, two = rounds_of([0.5, 0.7], [0.6, 0.9], [0.8, 0.8]), rounds_of([0.4, 0.4], [0.5, 0.6])
    result = summary({"three": three, "two": two, "one": rounds_of([0.9, 0.7])}, num_folds=4)
    assert [its["mean"] for its in result["three"]["validation_slide_auc"]] == pytest.approx([0.6, 0.75, 0.8])
    assert [its["mean"] for its in result["two"]["minus_first"]["validation_slide_auc"]] == pytest.approx([-0.2, -0.2])
    one = result["one"]["minus_first"]["validation_slide_auc"]
    assert [its["mean"] for its in one] == pytest.approx([0.2])  # not against the first's other rounds
    assert [its["mean"] for its in result["three"]["minus_first"]["validation_slide_auc"]] == [0.0, 0.0, 0.0]


def test_folds_that_leave_a_figure_open_take_no_part() -> None:
    first = rounds_of([0.5, None, 0.7, 0.3], [None, None, None, 0.6])
    other = rounds_of([0.6, 0.9, None, 0.5], [0.8, 0.8, 0.8, None])
    result = summary({"first": first, "other": other}, num_folds=4)
    own = result["first"]["validation_slide_auc"]
    assert own[0]["num"] == 3
    assert own[0]["mean"] == pytest.approx(0.5)
    assert own[1] == {"mean": 0.6, "low": None, "high": None, "num": 1}
    minus = result["other"]["minus_first"]["validation_slide_auc"]
    assert minus[0]["num"] == 2  # folds 0 and 3
    assert minus[0]["mean"] == pytest.approx(0.15)
    # by hand: s = 0.05 sqrt(2), Student's t of 1 degree 12.7062, sqrt(1/2 + 1/2) with 2 of 4 folds in training
    assert minus[0]["high"] - minus[0]["mean"] == pytest.approx(12.7062 * 0.05 * 2**0.5, rel=1e-5)
    assert minus[1] is None
    assert result["first"]["validation_patch_auc"] == [None, None]
    assert "| other | 0.667 0.800 | - - | - - | - - |" in table(result)


def test_figures_are_read_from_each_round_and_null_is_left_out(tmp_path: Path) -> None:
    for fold in range(2):
        for number in range(2):
            folder = tmp_path / f"fold-{fold}" / f"round-00{number}"
            folder.mkdir(parents=True)
            rate = None if fold else 0.5
            decision = {"validation": {"auc": 0.1 * (2 * number + fold)}, "validation_instance_auc": rate}
            decision |= {"witness_rate_candidates": 0.0, "witness_rate_self_paced": rate}
            (folder / "mining.json").write_text(json.dumps(decision))
    rounds = figures_of([tmp_path / "fold-0", tmp_path / "fold-1"])
    assert [its["fold-0"]["validation_slide_auc"] for its in rounds] == pytest.approx([0.0, 0.2])
    assert rounds[1]["fold-0"].keys() == FIGURES.keys()
    assert rounds[1]["fold-1"] == pytest.approx({"validation_slide_auc": 0.3, "witness_rate_candidates": 0.0})


def test_a_name_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    variants = ["--variant", "now=mining.neg_ratio=0.2", "--variant", "now=mining.neg_ratio=0.5"]
    monkeypatch.setattr("sys.argv", ["variants", "no-folder", "no-out", *variants])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "--variant now=...: given 2 times" in capsys.readouterr().err
