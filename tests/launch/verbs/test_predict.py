"""`hnm predict` and `hnm export` as a user meets them: files, exit codes, what is said of a slide that fails."""

import copy
import csv
import multiprocessing as mp
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hnm.model.model import Model
from hnm.model.predict import PredictedSlide, predict_slide
from launch.process.writer import only_writer
from launch.verbs.predict import PredictRequest, predict, read_inputs, rows_of_others
from shards.cohort.annotations import read_annotation
from shards.drawn.drawn_slides import make_whole_slides
from shards.errors import InputError
from shards.tiling.unit import SlideJob
from tests.command_line import assert_refused, hnm


@pytest.fixture(scope="module")
def model(evaluated_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's model/, alone in another place: no run and no cohort beside it."""
    folder = tmp_path_factory.mktemp("elsewhere") / "model"
    shutil.copytree(evaluated_run / "model", folder)
    return folder


def test_good_slides_are_done_and_bad_ones_named(model: Path, tiny_slides: Path, tmp_path: Path) -> None:
    images = sorted((tiny_slides.parent / "images").glob("*.png"))[:2]
    damaged = tmp_path / "damaged.svs"
    damaged.write_bytes(b"II*\0 no slide")
    out = tmp_path / "out"
    arguments = ("predict", model, images[0], damaged, tmp_path / "gone.png", images[1], "--out", out, "--device", "cpu")
    result = hnm(*arguments)
    assert result.exit_code == 1
    assert "2 slides scored" in result.output
    assert "2 failed" in result.output
    assert f"gone: failed: {tmp_path / 'gone.png'}: there is no such file" in result.output
    assert "damaged: failed:" in result.output
    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    assert [row["status"].split(":")[0] for row in rows] == ["done", "failed", "failed", "done"]
    assert rows[1]["score"] is None
    assert rows[0]["num_patches"] == 16
    for folder, ending in (("patches", "parquet"), ("heatmaps", "png"), ("geojson", "geojson")):
        assert sorted(path.name for path in (out / folder).iterdir()) == [f"slide-000.{ending}", f"slide-001.{ending}"]
    patches = pq.read_table(out / "patches" / "slide-000.parquet")
    assert patches.column_names == ["x_level0", "y_level0", "score"]
    scores = patches["score"].to_numpy()
    assert rows[0]["num_positive_patches"] == int((scores >= rows[0]["patch_threshold"]).sum())
    if rows[0]["num_positive_patches"]:
        area = read_annotation(out / "geojson" / "slide-000.geojson", [], None, False).area
        assert area.area == rows[0]["num_positive_patches"] * 16 * 16
    with Image.open(out / "heatmaps" / "slide-000.png") as picture:
        assert picture.width == 420
    stamps = {path: path.stat().st_mtime_ns for path in (out / "patches").iterdir()}
    shutil.copy(images[1], tmp_path / "gone.png")  # it has come
    again = hnm(*arguments)
    assert again.output.count("(was there)") == 2
    assert "1 failed" in again.output
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    other = hnm(*arguments, "--patch-threshold", "0")  # other thresholds, other files
    assert "(was there)" not in other.output
    assert "16 of 16 patches positive" in other.output


def test_whatever_goes_wrong_with_a_slide_the_others_are_done_and_stay(
    model: Path, tiny_slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third, fourth = sorted((tiny_slides.parent / "images").glob("*.png"))[:4]
    out, real = tmp_path / "out", predict_slide

    def strange(job: SlideJob, its_model: Model, *rest: Any) -> PredictedSlide:
        if job.slide.path == second:
            raise RuntimeError("out of memory")
        if job.slide.path == third:
            encoder = copy.deepcopy(its_model.encoder)
            for parameter in encoder.parameters():
                parameter.detach().fill_(np.nan)
            its_model = replace(its_model, encoder=encoder)
        return real(job, its_model, *rest)

    monkeypatch.setattr("launch.verbs.predict.predict_slide", strange)
    assert predict(PredictRequest(model, [first, second, third], out, device="cpu")) == 1
    assert predict(PredictRequest(model, [fourth], out, device="cpu")) == 0  # another call: the table keeps the first
    rows = {row["slide_id"]: row for row in pq.read_table(out / "predictions.parquet").to_pylist()}
    assert list(rows) == [path.stem for path in (first, second, third, fourth)]
    assert [row["score"] is None for row in rows.values()] == [False, True, True, False]
    assert rows[second.stem]["status"] == "failed: RuntimeError: out of memory"
    assert "features are not finite" in rows[third.stem]["status"]
    (out / "predictions.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match=r"predictions.parquet: not a table of hnm predict"):
        predict(PredictRequest(model, [fourth], out, device="cpu"))


def test_a_table_with_annotations_gives_labels_and_overlaps(model: Path, tmp_path: Path) -> None:
    slides_csv = make_whole_slides(tmp_path / "whole", 6, 256, 16, seed=3)
    table = slides_csv.read_text().splitlines()
    others = [row.replace("slide-", "whole-", 1).replace("patient-", "other-") for row in table[1:3]]  # one of each label
    slides_csv.write_text("\n".join([table[0], *others]) + "\n")
    out = tmp_path / "out"
    result = hnm("predict", model, slides_csv, "--out", out, "--device", "cpu", "-w", "2")
    assert result.exit_code == 0, result.output
    assert "2 of them have a label: " in result.output
    assert "overlap with the annotation (IoU)" in result.output
    negative, positive = pq.read_table(out / "predictions.parquet").to_pylist()
    assert (negative["label"], positive["label"]) == (0, 1)
    assert negative["iou"] is None
    assert 0 <= positive["iou"] <= 1
    assert positive["mpp"] == pytest.approx(0.5)
    assert 0 < positive["num_patches"] < 256  # the tissue
    pixels = np.asarray(Image.open(out / "heatmaps" / "whole-001.png").convert("RGB"))
    assert ((pixels == (255, 214, 0)).all(axis=2)).sum() > 50  # the annotation's outline
    annotation = next((tmp_path / "whole").rglob("*001.xml"))
    annotation.write_text("<ASAP")
    result = hnm("predict", model, slides_csv, "--out", out, "--device", "cpu", "-w", "2")
    assert "warning: annotations that do not say what is positive, not used: 1, such as whole-001's" in result.output
    positive = pq.read_table(out / "predictions.parquet").to_pylist()[1]
    assert (positive["status"], positive["iou"]) == ("done", None)
    assert "its annotation is not used: " in positive["remark"]


def test_points_instead_of_a_grid(model: Path, tiny_slides: Path, tmp_path: Path) -> None:
    image = tiny_slides.parent / "images" / "slide-002.png"
    (tmp_path / "points.csv").write_text("image,x,y,class\nslide-002,20,20,?\nslide-002,40,33,?\n")
    result = hnm("predict", model, image, "-o", tmp_path / "out", "--points", tmp_path / "points.csv", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "cut on a grid" not in result.output
    patches = pq.read_table(tmp_path / "out" / "patches" / "slide-002.parquet").to_pylist()
    assert [(row["x_level0"], row["y_level0"]) for row in patches] == [(12, 12), (32, 25)]
    without = hnm("predict", model, image, "-o", tmp_path / "grid", "--device", "cpu")
    assert "this model saw patches cut at points" in without.output


def test_misuse_is_explained(model: Path, evaluated_run: Path, finished_run: Path, tmp_path: Path) -> None:
    assert_refused(hnm("predict", tmp_path, "a.svs"), 1, "neither a run nor an exported model")
    assert_refused(hnm("predict", model, tmp_path), 1, "a folder. Name its slides")
    assert_refused(hnm("predict", model, "x/a.svs", "y/a.svs"), 1, "both are called 'a'")
    assert_refused(hnm("predict", model, "a.svs", "--assume-mpp", "-1"), 2, "assume_mpp")
    assert_refused(hnm("export", evaluated_run, finished_run), 1, "exists and is no exported model")
    assert hnm("predict", "--help").exit_code == 0
    assert hnm("predict", model).exit_code == 2
    (tmp_path / "slides.csv").write_text("name\n1\n")
    with pytest.raises(InputError, match="row 1"):
        read_inputs([tmp_path / "slides.csv"])


def test_a_run_predicts_with_its_cohort_gone_only_as_an_export(evaluated_run: Path, tmp_path: Path) -> None:
    result = hnm("export", evaluated_run, tmp_path / "m")
    assert result.exit_code == 0
    assert (tmp_path / "m" / "MODEL.md").is_file()
    request = PredictRequest(evaluated_run, [tmp_path / "a.png"], tmp_path / "out", cohort=tmp_path / "moved")
    with pytest.raises(InputError, match=r"cohort.json is missing"):
        predict(request)


def table_of(out: Path) -> dict[str, dict[str, Any]]:
    return {row["slide_id"]: row for row in pq.read_table(out / "predictions.parquet").to_pylist()}


def test_another_slide_of_the_same_name_replaces_nothing(model: Path, tiny_slides: Path, tmp_path: Path) -> None:
    first, second, third = sorted((tiny_slides.parent / "images").glob("*.png"))[:3]
    out, other, moved = tmp_path / "out", tmp_path / "other" / "a.png", tmp_path / "moved" / "A.png"
    for source, target in ((first, tmp_path / "a.png"), (second, other), (first, moved)):
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source, target)
    assert hnm("predict", model, tmp_path / "a.png", "-o", out, "--device", "cpu").exit_code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    taken = f"1 slides have the name of another slide, whose prediction there would be replaced: 'a' is {tmp_path / 'a.png'}"
    assert_refused(hnm("predict", model, other, third, "-o", out, "--device", "cpu"), 1, taken, "another slide_id for each")
    (out / "predictions.parquet").unlink()  # a process that was killed before it wrote the table
    assert_refused(hnm("predict", model, other, "-o", out, "--device", "cpu"), 1, taken)
    (tmp_path / "a.png").unlink()
    again = hnm("predict", model, moved, "-o", out, "--device", "cpu")  # the same slide, elsewhere, is no other
    assert again.exit_code == 0, again.output
    assert before.keys() <= {path for path in out.rglob("*") if path.is_file()}
    gone, there = tmp_path / "x" / "b.png", tmp_path / "b.png"
    assert hnm("predict", model, gone, "-o", out, "--device", "cpu").exit_code == 1
    shutil.copy(third, there)
    assert hnm("predict", model, there, "-o", out, "--device", "cpu").exit_code == 0  # of what could not be read nothing is lost
    assert table_of(out)["b"]["path"] == str(there)


def test_two_processes_at_once_lose_no_row(
    model: Path, tiny_slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted((tiny_slides.parent / "images").glob("*.png"))[:2]

    def slow(*arguments: Any) -> Any:
        rows = rows_of_others(*arguments)
        time.sleep(0.5)  # between what is there and what is written is where a row was lost
        return rows

    monkeypatch.setattr("launch.verbs.predict.rows_of_others", slow)
    requests = [PredictRequest(model, [image], tmp_path / "out", device="cpu") for image in images]
    processes = [mp.get_context("fork").Process(target=predict, args=(request,), daemon=True) for request in requests]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(table_of(tmp_path / "out")) == ["slide-000", "slide-001"]


def test_a_folder_that_another_process_writes_is_refused(model: Path, evaluated_run: Path, tmp_path: Path) -> None:
    with only_writer(tmp_path / "out"), pytest.raises(InputError, match=r"out: process .* works there"), only_writer(
        tmp_path / "out", wait_s=0.1
    ):
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".takeover"]
    result = hnm("export", evaluated_run, tmp_path / "out")  # empty, but for what locks leave
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "model.json").is_file()


def test_slides_that_trained_are_no_test(model: Path, tiny_slides: Path, tmp_path: Path) -> None:
    with open(tiny_slides, encoding="utf-8") as file:
        rows = [row | {"path": str(tiny_slides.parent / row["path"])} for row in csv.DictReader(file)]
    trained, *tested = next(row for row in rows if row["split"] == "train"), *(row for row in rows if row["split"] == "test")
    shutil.copy(trained["path"], tmp_path / "copy.png")
    renamed = trained | {"slide_id": "new", "patient_id": "new", "path": str(tmp_path / "copy.png")}
    with open(tmp_path / "slides.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows([renamed, *tested])
    for _ in range(2):  # the second time they are there
        done = hnm("predict", model, tmp_path / "slides.csv", "-o", tmp_path / "out", "--device", "cpu")
        assert done.exit_code == 0, done.output
        assert f"{len(tested)} of them have a label" in done.output
        assert "1 of 3 slides with a label are no test of this model and are in no figure: new (the model was" in done.output
    told = {name: row["seen"] for name, row in table_of(tmp_path / "out").items()}
    assert told == {"new": "the model was trained on it", **{row["slide_id"]: "" for row in tested}}
