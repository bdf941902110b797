"""`hnm predict` and `hnm export` as a user meets them: files, exit codes, what is said of a slide that fails."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hnm.model.model import Model
from hnm.model.predict import PredictedSlide, predict_slide
from launch.verbs.predict import PredictRequest, predict, read_inputs
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
    assert "2 of them have a label: slide AUC" in result.output
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
