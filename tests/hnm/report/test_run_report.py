"""report.html as a reader finds it: in a real browser at two widths, and what it says of runs that lack something."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hnm.report.page import link_to, write_page
from hnm.report.record import read_record
from hnm.report.run_report import values_of
from hnm.report.top_patches import TopPatches, write_top_patches
from hnm.run.study import open_study
from launch.process.run_directory import read_run
from launch.verbs.report import numbers_of, report
from shards.cohort.cohort import Cohort
from shards.cohort.slides import slide_key
from tests.chromium import needs_chromium, open_page
from tests.hostile import HOSTILE, require_escaped
from tests.pages import Text, choose, column, require_fits, require_self_contained, sort_by


def test_the_page_is_whole_and_asks_nobody(evaluated_run: Path) -> None:
    found = require_self_contained(evaluated_run / "report.html")
    for part in ("Warnings", "Rounds", "Pictures", "Slides", "Heatmaps", "Configuration", "Environment"):
        assert part in found.text
    assert "2 (chosen)" in found.text or "1 (chosen)" in found.text or "0 (chosen)" in found.text
    assert len(found.images) == 9 + 10
    assert "mining.neg_ratio" in found.text
    assert "slide_intervals.auc.low" in found.text
    assert "instance.intervals.in_positive_auc.high" in found.text


@needs_chromium
@pytest.mark.parametrize("width", [1280, 400])
def test_it_works_in_a_browser(evaluated_run: Path, width: int, tmp_path: Path) -> None:
    with open_page(evaluated_run / "report.html", width) as page:
        require_fits(page, width, num_images=19)
        assert sort_by(page, 4) == "ascending"
        scores = [float(text) for text in column(page, 4)]
        assert len(scores) == 10
        assert scores == sorted(scores)
        assert sort_by(page, 4) == "descending"
        assert [float(text) for text in column(page, 4)] == sorted(scores, reverse=True)
        sort_by(page, 0)
        assert column(page, 0) == [f"slide-{number:03d}" for number in range(10)]
        choose(page, "split", "test")
        assert column(page, 2) == ["test", "test"]
        assert page.run("document.getElementById('shown').innerText") == "2 of 10 slides"
        choose(page, "split", "")
        choose(page, "search", "SLIDE-003")
        assert column(page, 0) == ["slide-003"]
        choose(page, "search", "")
        page.run("document.querySelector('#slide-table tbody a').click()")
        assert page.run("location.hash") == "#heatmap-slide-000"
        page.screenshot(tmp_path / "page.png")
        assert page.problems == []
    assert (tmp_path / "page.png").stat().st_size > 5000


@needs_chromium
def test_the_browser_test_would_see_a_broken_page(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(
        "<!doctype html><title>x</title><script>console.error('no'); missing()</script><img src='http://127.0.0.1:9/a.png'>"
    )
    with open_page(tmp_path / "bad.html", 400) as page:
        page.run("new Promise(done => setTimeout(done, 100))")
        told = " ".join(page.problems)
    assert "missing is not defined" in told
    assert "request: http://127.0.0.1:9/a.png" in told
    assert "consoleAPICalled" in told or '"value": "no"' in told


def test_a_run_that_was_not_evaluated_is_shown_with_its_validation_figures(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run <1>"
    shutil.copytree(finished_run, run)
    (run / "round-002" / "mining.json").unlink()
    assert report(run, None, max_heatmaps=3) == 0
    assert f"wrote {run / 'report.html'}" in capsys.readouterr().out
    found = Text(run / "report.html")
    assert "run <1>" in found.text
    assert "1 of 2 fine-tunings are done" in found.text
    assert "The test split has not been read yet" in found.text
    assert "slide AUC, validation" in found.text
    assert len(found.images) == 8 + 3
    assert not (run / "metrics.json").exists()


def test_figures_for_tracking_are_flat_numbers() -> None:
    metrics = {
        "chosen_round": 1, "threshold": 0.5, "num_test_slides": 2, "slide": {"auc": 0.9, "f1": None},
        "instance": None, "validation": {"auc": 0.8}, "rounds": [{"round": 0}], "warnings": ["few"],
    }  # fmt: skip
    assert numbers_of(metrics) == {"num_test_slides": 2, "slide_auc": 0.9}


def test_words_of_strangers_stay_words(evaluated_run: Path, tmp_path: Path) -> None:
    config, folder = read_run(evaluated_run)
    study, told = open_study(Cohort.open(folder), config.data, config.seed), {}
    slides = study.cohort.slides
    for name, value in (("slide_id", "slide"), ("patient_id", "patient"), ("status", "failed: gone.svs")):
        told[name] = f"{value} {HOSTILE}"
        values = [told[name], *slides[name].to_pylist()[1:]]
        slides = slides.set_column(slides.column_names.index(name), name, pa.array(values))
    record = read_record(evaluated_run, config, study)
    record = replace(record, study=replace(study, cohort=replace(study.cohort, slides=slides)))
    record.__dict__["environment"] = {f"tool {HOSTILE}": {"path": HOSTILE}}  # the cached property
    near, far = evaluated_run / "figures/heatmaps/slide-000.jpg", evaluated_run / "figures" / "a &'\"<b>.jpg"
    for embedded, heatmap in (([0], near), ([], far)):
        write_page(tmp_path / "report.html", "run.html", **values_of(record, [], {0: heatmap}, embedded, 1))
        parsed = require_escaped(tmp_path / "report.html", 1, *told.values(), f"tool {HOSTILE}")
        key = slide_key(told["slide_id"])
        assert (f"heatmap-{key}" in parsed.values, f"#heatmap-{key}" in parsed.values) == (bool(embedded),) * 2
        assert (f"heatmap of {told['slide_id']}" in parsed.values) == bool(embedded)
        assert link_to(heatmap, evaluated_run) in parsed.values
    assert "figures/a%20%26%27%22%3Cb%3E.jpg" in parsed.values


def test_rows_that_need_truth_are_shown_only_where_there_is_some(evaluated_run: Path, tmp_path: Path) -> None:
    config, folder = read_run(evaluated_run)
    study = open_study(Cohort.open(folder), config.data, config.seed)
    record = read_record(evaluated_run, config, study)
    patches = replace(study.cohort.patches, truth=np.full(study.cohort.num_patches, -1, np.int8))
    unknown = {"witness_rate_self_paced": None, "witness_rate_candidates": None}
    decisions = [{**decision, **unknown} for decision in record.decisions]
    blind = replace(record, study=replace(study, cohort=replace(study.cohort, patches=patches)), decisions=decisions)
    of_truth = ("witness rate", "patch AUC", "instance.auc", "froc.score", "slide AUC without positive patches")
    for its, are_told in ((record, True), (blind, False)):
        write_page(tmp_path / "report.html", "run.html", **values_of(its, [], {}, [], 1))
        text = Text(tmp_path / "report.html").text.split("what the words of this page mean")[0]
        told = {words: words in text for words in of_truth}
        assert told == dict.fromkeys(told, are_told)


def test_the_hardest_patches_of_a_slide_have_names_places_and_links(evaluated_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated_run, run)
    config, folder = read_run(run)
    record = read_record(run, config, open_study(Cohort.open(folder), config.data, config.seed))
    slide = next(int(slide) for slide in record.study.train if record.study.labels[slide] == 0)
    name, first = str(record.study.cohort.slide_ids[slide]), int(record.study.cohort.patch_bounds[slide])
    page = run / "view" / "slides" / f"{slide_key(name)}.html"
    page.parent.mkdir(parents=True)
    page.write_text("")
    top = TopPatches(record)
    rows = top.of_slide(slide, 5)
    own = record.by_patch[first : first + 16]
    assert [row.patch - first for row in rows] == np.argsort(-own, kind="stable")[:5].tolist()
    assert {row.what for row in rows} == {"hardest negative"}
    of_negatives = record.by_patch[record.study.mask_of(np.flatnonzero(record.study.labels == 0))]
    assert rows[0].rank == 1 + int((of_negatives > own.max()).sum())
    write_top_patches(run / "top_patches.csv", top, [slide], record.num_rounds)
    cells = [line.split(",") for line in (run / "top_patches.csv").read_text(encoding="utf-8").splitlines()]
    assert len(cells) == 1 + 10
    patches = record.study.cohort.patches
    assert cells[1][:6] == [name, "hardest negative", str(rows[0].patch), str(patches.x_level0[rows[0].patch]),
                            str(patches.y_level0[rows[0].patch]), "16"]  # fmt: skip
    assert cells[1][-1] == f"view/slides/{slide_key(name)}.html#p={rows[0].patch}"
    card = tmp_path / "run" / "report.html"
    write_page(card, "run.html", **values_of(record, [], {slide: run / "figures/heatmaps/slide-000.jpg"}, [slide], 1))
    assert cells[1][-1] in Text(card).links
