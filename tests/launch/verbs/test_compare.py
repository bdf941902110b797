"""`hnm compare` on the command line: two runs with and without what patch figures need, two cross-validations."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hnm.evidence.compare import read_test_scores
from launch.cli.main import app
from launch.process.run_directory import read_run
from launch.verbs import compare
from shards.files import write_json
from tests.hnm.evidence.test_compare import NUM, drawn, write_run
from tests.hnm.evidence.test_compare_crossval import drawn as drawn_folds
from tests.hnm.evidence.test_compare_crossval import write_crossval

WITHOUT = "patch figures without an interval of the difference: "


def test_two_runs_of_tables_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = write_run(tmp_path / "weak", drawn(0, 0.3)), write_run(tmp_path / "strong", drawn(1, 3))
    assert compare.run(*runs, tmp_path / "out.json") == 0
    out = capsys.readouterr().out
    for text in ("30 test slides", "A: weak", "B: strong", "slide auc", "instance auc", "DeLong's test of the two AUCs: p ="):
        assert text in out
    assert f"{WITHOUT}{runs[0]}: no run directory (state.json is missing)" in out
    written = json.loads((tmp_path / "out.json").read_text())
    of_p, of_width = written["warnings"]
    assert "30 test slides as independent, but they are of 15 patients" in of_p
    assert of_width.endswith("in every resample of the 15 patients: slide sensitivity (B).")
    assert f"warning: {of_p}\nwarning: {of_width}\n" in out
    assert written["patch_figures"]["instance auc"]["difference_interval"]["low"] is None
    one_class = write_run(tmp_path / "ones", drawn(0, 1), labels=np.ones(NUM, np.int8))
    assert compare.run(one_class, one_class, None) == 0
    out = capsys.readouterr().out
    assert "unknown" in out
    assert "no DeLong test" in out


def test_patch_figures_come_from_the_cohort_where_it_is(
    evaluated_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated_run, run)
    assert compare.run(evaluated_run, run, tmp_path / "out.json") == 0
    out = capsys.readouterr().out
    no_width = "no certainty, only the same in every resample of the 2 patients: slide auc (A, B, B - A), slide auprc (A, "
    assert f"warning: an interval without width is {no_width}" in out
    assert "DeLong's test takes" not in out  # a slide each
    assert WITHOUT not in out
    assert "froc score" in out
    figures = json.loads((tmp_path / "out.json").read_text())["patch_figures"]
    metrics = json.loads((run / "metrics.json").read_text())
    for name, value, interval in (
        ("instance in_positive_auc", metrics["instance"]["in_positive_auc"], metrics["instance"]["intervals"]["in_positive_auc"]),
        ("froc score", metrics["froc"]["score"], metrics["froc"]["interval"]),
    ):
        assert figures[name]["a"] == figures[name]["b"] == value
        assert figures[name]["b_interval"] == interval  # the seed of the run is 0, as that of the comparison
        assert figures[name]["difference_interval"]["low"] == figures[name]["difference_interval"]["high"] == 0
    state = json.loads((run / "state.json").read_text())
    del state["files"]  # metrics.json is about to be another one
    for change, remark in (
        ({"fingerprint": "other"}, f"{run / 'state.json'}: this run was made with the cohort"),
        ({"cohort": str(tmp_path / "moved")}, f"{tmp_path / 'moved'}: no cohort here"),
    ):
        write_json(run / "state.json", state | change)
        figures, (line,) = compare.patch_figures(*(read_test_scores(its) for its in (evaluated_run, run)))
        assert line.startswith(f"{WITHOUT}{remark}")
        assert figures["froc score"]["b_interval"] == metrics["froc"]["interval"]  # metrics.json's own
        assert figures["froc score"]["difference_interval"]["low"] is None
    write_json(run / "state.json", state | {"fingerprint": "other"})
    told = CliRunner().invoke(app, ["compare", str(evaluated_run), str(run)]).output
    assert "warning: the slides have the same names, but were not cut into the same patches: " in told
    assert f"{state['cohort']} (fingerprint other). If" in told
    write_json(run / "state.json", state)
    where = read_run(evaluated_run)[1]
    verb = ["compare", str(evaluated_run), str(run)]
    moved = CliRunner().invoke(app, [*verb, "--cohort", str(where), "--json", str(tmp_path / "m")])
    assert moved.exit_code == 0, moved.output
    assert "same names" not in moved.output
    assert json.loads((tmp_path / "m").read_text())["patch_figures"]["froc score"]["difference_interval"]["low"] == 0
    nowhere = CliRunner().invoke(app, [*verb, "--cohort", str(tmp_path / "moved")])
    assert nowhere.exit_code == 1
    assert f"error: {tmp_path / 'moved'}: no cohort here" in nowhere.output
    write_json(run / "metrics.json", metrics | {"instance": None, "froc": None})
    nothing = compare.patch_figures(*(read_test_scores(its) for its in (evaluated_run, run)))
    assert nothing == ({}, ["no patch figures: not both runs know any in metrics.json, for want of patch truth"])


def test_two_cross_validations(tmp_path: Path) -> None:
    weak, strong = write_crossval(tmp_path / "weak", drawn_folds(1, 0.5)), tmp_path / "strong"
    shutil.copytree(weak, strong)
    result = CliRunner().invoke(app, ["compare", str(weak), str(strong), "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "out.json").read_text())
    for text in ("3 folds x 2, 24 slides: means, 95 % intervals over folds", "A: weak", "B: strong", "slide auc", "instance auc"):
        assert text in result.output
    pooled = written["out_of_fold"]["auc"]
    assert f"by patient: A {pooled['a']:.3f} ({pooled['a_interval']['low']:.3f} to" in result.output
    of_folds, of_pooled = written["warnings"]  # a copy of itself
    assert "only the same in every fold: slide auc (B - A), slide auprc (B - A)" in of_folds
    assert of_pooled.endswith("in every resample of patients: AUC of all out-of-fold predictions (B - A).")
    assert f"warning: {of_folds}\nwarning: {of_pooled}\n" in result.output
    record = json.loads((strong / "crossval.json").read_text())
    write_json(strong / "crossval.json", record | {"fingerprint": "other"})
    other = CliRunner().invoke(app, ["compare", str(weak), str(strong)])
    assert "same patches: cohort (fingerprint f) and cohort (fingerprint other)" in other.output
    fold = weak / "repeat-0" / "fold-0"
    result = CliRunner().invoke(app, ["compare", str(fold), str(strong)])
    assert result.exit_code == 1
    assert f"{strong} is a cross-validation, the other is not. Give two runs, such as {strong}/repeat-0/fold-0" in result.output
    result = CliRunner().invoke(app, ["compare", str(weak), str(strong), "--cohort", str(tmp_path)])
    assert result.exit_code == 1
    assert "leave --cohort out" in result.output
    (weak / "metrics.json").unlink()
    result = CliRunner().invoke(app, ["compare", str(weak), str(strong)])
    assert result.exit_code == 1
    assert "this cross-validation is not finished" in result.output
