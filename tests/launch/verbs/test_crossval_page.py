"""The page of a cross-validation: what it says, in a browser too, of folds that lack something, and when it is refused."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hnm.evidence.crossval import of_whole_repeats
from hnm.evidence.folds import over_folds
from hnm.report.crossval_report import warnings_of_crossval
from launch.cli.main import app
from launch.verbs.crossval import print_summary
from launch.verbs.crossval_folder import Request
from launch.verbs.crossval_page import lines_of_folds, means_in_words, read_crossval
from shards.cohort.slides import slide_key
from tests.chromium import needs_chromium, open_page
from tests.crossvals import write_crossval
from tests.hostile import HOSTILE, require_escaped
from tests.pages import Text, choose, column, require_fits, require_self_contained, sort_by

PICTURES = ["calibration", "confusion", "curves", "figures_by_fold", "scores_by_fold"]


def report(out: Path) -> str:
    result = CliRunner().invoke(app, ["report", str(out)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two repeats, a fold of which is of one class; that has its own page and a heatmap."""
    out = tmp_path_factory.mktemp("crossval") / "cv"
    write_crossval(out)
    fold = out / "repeat-1" / "fold-0"
    (fold / "figures" / "heatmaps").mkdir(parents=True)
    (fold / "report.html").touch()
    (fold / "figures" / "heatmaps" / f"{slide_key('TCGA.00')}.jpg").touch()
    assert f"wrote {out / 'report.html'}: open it in a browser" in report(out)
    return out


def test_the_page_says_what_the_files_say(twice: Path) -> None:
    found = require_self_contained(twice / "report.html")
    assert len(found.images) == len(PICTURES)
    assert sorted(path.stem for path in (twice / "figures").glob("*.png")) == PICTURES
    metrics = json.loads((twice / "metrics.json").read_text())
    auc, pooled = metrics["mean"]["slide auc"], metrics["out_of_fold"]["auc"]
    assert f"{auc['mean']:.3f} slide AUC, mean over folds 95 %: {auc['low']:.3f} to {auc['high']:.3f}" in found.text
    assert f"{pooled['value']:.3f} AUC of all out-of-fold scores 95 %: {pooled['low']:.3f}" in found.text
    assert "12 slides, each tested 6 positive, 6 negative 12 patients 3 x 2 folds x repeats 180 s computing" in found.text
    values = [fold["figures"].get("slide auc") for fold in metrics["folds"]]
    own = " ".join("none" if value is None else f"{value:.3f}" for value in values)
    assert values[3] is None
    assert f"slide auc {auc['mean']:.3f} {auc['low']:.3f} to {auc['high']:.3f} {own} slide auprc" in found.text
    assert "patch AUC" not in found.text  # no patch truth
    assert "secret" not in (twice / "report.html").read_text()
    heatmap = f"repeat-1/fold-0/figures/heatmaps/{slide_key('TCGA.00')}.jpg"
    assert [link for link in found.links if not link.startswith("#")] == ["repeat-1/fold-0/report.html", heatmap]


@needs_chromium
@pytest.mark.parametrize("width", [1280, 400])
def test_its_table_sorts_and_filters_in_a_browser(twice: Path, width: int) -> None:
    table = pq.read_table(twice / "predictions.parquet").to_pandas()
    with open_page(twice / "report.html", width) as page:
        require_fits(page, width, num_images=len(PICTURES))
        assert sort_by(page, 5) == "ascending"
        assert column(page, 5) == [f"{score:.3f}" for score in sorted(table.score)]
        choose(page, "repeat", "1")
        choose(page, "fold", "2")
        some = table[(table.repeat == 1) & (table.fold == 2)]
        assert sorted(column(page, 0)) == sorted(some.slide_id)
        assert page.run("document.getElementById('shown').innerText") == "4 of 24 predictions"
        choose(page, "result", "wrong")
        assert len(column(page, 0)) == (some.label != some.predicted).sum()
        assert page.problems == []


def test_the_summary_in_the_terminal_ends_with_the_warnings(twice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = json.loads((twice / "metrics.json").read_text())
    request = Request(Path("cohort"), twice, 3, 2, None, None, None, [], None, None, 1)
    print_summary(metrics, request)
    (warning,) = metrics["interval_warnings"]
    few = "of few patients: 6 positive, 6 negative"
    assert f"by patient, {few})\nwarning: {warning}\nwrote {twice / 'metrics.json'}" in capsys.readouterr().out


def test_a_fold_of_one_class_has_no_auc_and_breaks_nothing(twice: Path) -> None:
    found = Text(twice / "report.html")
    assert "repeat 1, fold 0: no test slide is <positive>" in found.text
    assert "repeat 1, fold 0 not defined 4 0 0 0.400 60 30 1 repeat 1, fold 1 " in found.text  # in the table of folds
    assert "Warnings (4) 1 of 13 slides take no part, for they have no label or no patch: unlabelled." in found.text
    assert "In 1 of 6 folds no fine-tuned round was better than the start encoder" in found.text
    assert "All folds have the same slide auc, slide auprc: that the intervals of these means have no width" in found.text
    assert "Not drawn" not in found.text


def test_words_of_strangers_stay_words(twice: Path, tmp_path: Path) -> None:
    out = tmp_path / "c & v"
    shutil.copytree(twice, out)
    slide_id, patient = f"slide {HOSTILE}", f"patient {HOSTILE}"
    table = pq.read_table(out / "predictions.parquet")
    for name, value in (("slide_id", slide_id), ("patient_id", patient)):
        values = [value, *table[name].to_pylist()[1:]]
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, out / "predictions.parquet")
    fold = out / f"repeat-{table['repeat'][0]}" / f"fold-{table['fold'][0]}"
    (fold / "figures" / "heatmaps").mkdir(parents=True, exist_ok=True)
    (fold / "figures" / "heatmaps" / f"{slide_key(slide_id)}.jpg").touch()
    for name, key in (("metrics.json", "interval_warnings"), ("crossval.json", "cohort")):
        content = json.loads((out / name).read_text())
        content[key] = [f"Warned {HOSTILE}"] if key == "interval_warnings" else f"/cohorts/{HOSTILE}"
        (out / name).write_text(json.dumps(content))
    report(out)
    told = (slide_id, patient, f"Warned {HOSTILE}", f"/cohorts/{HOSTILE}")
    parsed = require_escaped(out / "report.html", 1, *told)
    assert f"{fold.relative_to(out)}/figures/heatmaps/{slide_key(slide_id)}.jpg" in parsed.values


def test_while_folds_are_missing_those_that_are_done_are_told(twice: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "cv", json.loads((twice / "metrics.json").read_text())
    shutil.copytree(twice, out)
    for name in ("metrics.json", "predictions.parquet", "repeat-1/fold-2/metrics.json", "repeat-0/fold-1/metrics.json"):
        (out / name).unlink()
    aucs = [fold["figures"].get("slide auc") for fold in whole["folds"]]
    its = over_folds([aucs[0], aucs[2], aucs[4]], num_folds=3)  # repeat 1, fold 0 has none
    told = f"slide auc {its['mean']:.3f} ({its['low']:.3f} to {its['high']:.3f}); slide auprc"
    record = read_crossval(out)
    assert means_in_words(record.metrics).startswith(told)
    lines, is_bad = lines_of_folds(out)
    assert (lines[0], is_bad) == ("4 of 6 folds are done", False)
    assert lines[-1].startswith(f"so far, mean over those done: {told}")
    warned = "Only 4 of 6 folds are done: all figures are of these, and will change. Not done: repeat 0, fold 1, repeat 1"
    assert warnings_of_crossval(record)[0].startswith(warned)
    assert len(record.columns["score"]) == 16  # of which the page makes its table and pictures


def test_the_pooled_figure_is_of_repeats_with_the_same_slides(twice: Path) -> None:
    table = pq.read_table(twice / "predictions.parquet")
    part = table.filter(pa.array((table["repeat"].to_numpy() != 1) | (table["fold"].to_numpy() != 2)))
    assert set(of_whole_repeats(part, 3)["repeat"].to_pylist()) == {0}
    assert of_whole_repeats(table, 3) is table
    assert set(of_whole_repeats(part, 4)["repeat"].to_pylist()) == {0}  # the one with most slides


def test_folds_that_are_not_begun_or_not_joined_are_named(twice: Path, tmp_path: Path) -> None:
    out = tmp_path / "cv"
    shutil.copytree(twice, out)
    (out / "metrics.json").unlink()
    assert "all folds are done, but metrics.json is not of all of them yet" in refused(out)
    for path in out.glob("repeat-*/fold-*/metrics.json"):
        path.unlink()
    assert "none of 6 folds is done. Run the same hnm crossval again; hnm status" in refused(out)
    assert (out / "report.html").read_bytes() == (twice / "report.html").read_bytes()


def refused(out: Path) -> str:
    result = CliRunner().invoke(app, ["report", str(out)])
    assert result.exit_code == 1
    assert "error: " in result.output
    return result.output
