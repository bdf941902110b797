"""What the verbs print at their end."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.verbs.tables import print_metrics, tile_lines
from shards.tiling.annotated import AnnotationSummary
from shards.tiling.tile_summary import TileSummary

SUMMARY = TileSummary(
    num_slides=4, num_done=2, num_empty=1, num_failed=1, num_patches=12345, num_positive_patches=10,
    num_points_outside=3, num_background=7, num_outlines_repaired=6, num_outlines_left_out=8, num_assumed_mpp=9,
    num_unlabelled=11, failures={"s-9": "failed: cannot be read"}, empties={"s-8": "empty: no tissue"}, outliers=[],
    mixed_mpp=True, num_tiled=2, num_points_unmatched=5, split_drawn=True, patients_known=True,
)  # fmt: skip


def test_everything_that_was_left_out_is_in_the_summary() -> None:
    text = "\n".join(tile_lines(SUMMARY, Path("cohort")))
    for part in (
        "4 slides: 2 done, 1 empty, 1 failed; 2 tiled now", "12,345 patches, 10 of them", "3 points without a patch",
        "5 points of images that are no slide", "7 patches left out", "drawn by patient", "s-9: failed: cannot be read",
        "6 annotated outlines crossed themselves", "8 annotated outlines of fewer", "9 slides whose microns per pixel",
        "11 slides without a label", "different microns per pixel", "s-8: empty: no tissue", "Next: hnm pretrain cohort",
    ):  # fmt: skip
        assert part in text


def test_annotations_that_contradict_the_labels_are_in_the_summary() -> None:
    annotations = AnnotationSummary(1, warnings=["1 slide with label 0 has outlines"])
    lines = tile_lines(replace(SUMMARY, annotations=annotations), Path("cohort"))
    assert "warning: 1 slide with label 0 has outlines" in lines


def test_nothing_left_out_is_not_mentioned() -> None:
    summary = TileSummary(2, 2, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, {}, {}, [], False)
    assert len(lines := tile_lines(summary, Path("cohort"))) == 3
    assert lines[1] == "8 patches"  # nothing is annotated: nothing can be known to be positive
    assert tile_lines(replace(summary, num_known_patches=8), Path("cohort"))[1] == "8 patches, 0 of them known to be positive"


def metrics_of(**changes: Any) -> dict[str, Any]:
    rounds = [
        {"round": r, "validation_auc": 0.5 + r / 8, "num_hard_negatives": 1000 * r, "num_candidates": 7,
         "validation_instance_auc": None if r else 0.875,
         "witness_rate_self_paced": None if r else 0.25}
        for r in range(2)
    ]  # fmt: skip
    metrics = {
        "num_test_slides": 20, "chosen_round": 1, "threshold": 0.4321, "rounds": rounds,
        "slide": {"auc": 0.8765, "accuracy": 0.75, "f1": 0.7}, "slide_auc_interval": {"low": 0.71, "high": 0.95},
        "instance": {"threshold": 0.3, "auc": 0.66, "in_positive_f1": None, "in_positive_auc": 0.6},
    }  # fmt: skip
    return metrics | changes


def printed(capsys: pytest.CaptureFixture[str], metrics: dict[str, Any]) -> dict[str, list[str]]:
    """Return the cells of each printed row by its first cell."""
    print_metrics(metrics)
    rows = [[cell.strip() for cell in line.strip("│┃ \n").split("│")] for line in capsys.readouterr().out.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_the_tables_hold_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    rows = printed(capsys, metrics_of())
    assert rows["slide AUC"] == ["0.876"]
    assert rows["95 % interval"] == ["0.710 to 0.950"]
    assert rows["slide accuracy at 0.432"] == ["0.750"]
    assert rows["instance auc"] == ["0.660"]
    assert rows["instance in_positive_f1"] == ["unknown"]
    assert "instance threshold" not in rows
    unknown = {"low": None, "high": None, "num_skipped": 1000}
    intervals = {"auc": {"low": 0.61, "high": 0.72, "num_skipped": 0}, "in_positive_auc": unknown}
    again = printed(capsys, metrics_of(instance=metrics_of()["instance"] | {"intervals": intervals}))
    assert again["95 % interval"] == ["0.610 to 0.720"]  # the last one
    assert rows["0"] == ["0.500", "0.875", "0", "7", "0.250"]
    assert rows["1 *"] == ["0.625", "unknown", "1,000", "7", "unknown"]


def test_few_patients_are_told_at_the_interval(capsys: pytest.CaptureFixture[str]) -> None:
    few = {"all": 30, "positive": 2, "negative": 28}
    rows = printed(capsys, metrics_of(patients=few))
    assert rows["95 % interval of few patients: 2 positive, 28 negative"] == ["0.710 to 0.950"]
    assert "95 % interval" in printed(capsys, metrics_of(patients=few | {"positive": 10}))


def test_froc_tells_what_it_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    froc = {"score": None, "num_lesions": 0, "num_isolated_left_out": 12, "lesions_from": ["annotations"]}
    rows = printed(capsys, metrics_of(froc=froc))
    assert rows["FROC of 0 lesions (annotations)"] == ["unknown"]
    assert rows["isolated tumour cells left out"] == ["12"]
    older = {"score": 0.5, "num_lesions": 3, "lesions_from": ["patches"]}
    assert "isolated tumour cells left out" not in printed(capsys, metrics_of(froc=older))


def test_warnings_of_both_kinds_end_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    print_metrics(metrics_of(warnings=["first."], interval_warnings=["no [width]."]))
    assert capsys.readouterr().out.endswith("\nwarning: first.\nwarning: no [width].\n")


def test_what_is_unknown_is_said_or_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    unknown = {"auc": None, "accuracy": 1.0, "f1": 0.0}
    nothing = {"low": None, "high": None}
    rounds = [row | {"validation_instance_auc": None, "witness_rate_self_paced": None} for row in metrics_of()["rounds"]]
    froc = {"score": None, "num_lesions": 0, "lesions_from": []}
    rows = printed(capsys, metrics_of(instance=None, slide=unknown, slide_auc_interval=nothing, rounds=rounds, froc=froc))
    assert rows["slide AUC"] == ["unknown"]
    assert not any("interval" in row or row.startswith(("instance", "FROC")) for row in rows)
    assert rows["0"] == ["0.500", "0", "7"]  # no patch AUC, no witness rate


def test_baselines_and_context_stand_below_the_runs_own_figures(capsys: pytest.CaptureFixture[str]) -> None:
    its = {"slide_auc": 0.81, "run_minus_it": {"auc": 0.0665, "low": -0.02, "high": 0.15}}
    context = {"num_slides": 18, "slide_auc_without_positive_patches": 0.8}
    rows = printed(capsys, metrics_of(baselines={"methods": {"meanstd": its}}, context=context))
    assert rows["slide AUC without positive patches (18 slides)"] == ["0.800"]
    assert rows["baseline meanstd: slide AUC"] == ["0.810"]
    assert rows["95 % interval of the run minus it"] == ["-0.020 to 0.150"]


def test_known_mimics_are_told_where_they_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    rounds = [row | {"mimic_share_hard_negatives": 0.4} for row in metrics_of()["rounds"]]
    assert printed(capsys, metrics_of(rounds=rounds))["0"][-1] == "0.400"
    assert len(printed(capsys, metrics_of())["0"]) == 5
    assert "5 patches known to look like a tumour" in "\n".join(tile_lines(replace(SUMMARY, num_mimics=5), Path("cohort")))
