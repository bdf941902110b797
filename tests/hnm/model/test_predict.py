"""New slides against what training and evaluation said of the same pixels; exported folders; parts of the pipeline."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from hnm.config import ConfigError, read_config
from hnm.engine.state import load_weights
from hnm.evidence.evaluate import read_metrics
from hnm.model.export import export, portable
from hnm.model.model import Model, open_exported, open_recorded, with_tile
from hnm.model.predict import in_batches, predict_slide, seen_by
from hnm.model.predictions import row_of, write_slide
from hnm.report.record import RunRecord
from launch.verbs.predict import open_record
from shards.cohort.slides import Slide
from shards.errors import InputError
from shards.tiling.jpeg import PatchJpeg, encode
from shards.tiling.sites import Points
from shards.tiling.tile_config import TileConfig
from shards.tiling.unit import slide_job
from tests.paths import CMU, needs_slides
from tests.scn import write_scn

CPU = torch.device("cpu")


def quiet(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
    return items


@pytest.fixture(scope="module")
def record(evaluated_run: Path) -> RunRecord:
    return open_record(evaluated_run, None)


@pytest.fixture(scope="module")
def exported(record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(record, folder)
    return folder


def on_grid(model: Model, **changes: Any) -> Model:
    return with_tile(model, points_file=None, positive_class=None, **changes)


def test_a_slide_scores_as_it_did_in_evaluation(record: RunRecord, exported: Path) -> None:
    rows = record.study.cohort.slides.to_pylist()
    for model in (open_recorded(record, CPU), open_exported(exported, CPU)):
        model = on_grid(model)
        for slide in (1, 4):  # of the test split
            job = slide_job(Slide(rows[slide]["slide_id"], Path(rows[slide]["path"]), "p", {}, {}, None), None, {})
            found = predict_slide(job, model, batch_size=5, num_threads=2, progress=quiet)
            assert found.score == pytest.approx(record.by_slide[slide], abs=1e-3)
            np.testing.assert_allclose(found.patches.scores, record.by_patch[16 * slide : 16 * slide + 16], atol=1e-3)
            own = slice(16 * slide, 16 * slide + 16)
            np.testing.assert_array_equal(found.patches.x_level0, record.study.cohort.patches.x_level0[own])
            assert found.patches.size_level0 == 16


def test_an_exported_folder_says_what_it_is_and_nothing_of_this_machine(record: RunRecord, exported: Path) -> None:
    names = {path.name for path in exported.iterdir()}
    assert names == {"encoder.safetensors", "aggregator.safetensors", "config.yaml", "seen.parquet", "model.json", "MODEL.md"}
    text = "".join((exported / name).read_text() for name in ("config.yaml", "model.json", "MODEL.md"))
    text += str(pq.read_table(exported / "seen.parquet").to_pylist())
    assert str(record.run) not in text
    assert str(record.study.cohort.root) not in text
    assert "slide-00" not in text  # no slide is named
    about = json.loads((exported / "model.json").read_text())
    assert about["slide_threshold"] == record.threshold
    kept = {"slides": 6, "positive": 3, "patients": 6, "patches": 96, "broken_patches": 0, "without_patch": 0}
    assert about["data"]["splits"]["train"] == kept
    assert about["preprocessing"]["patch_px"] == 16
    assert not any(name.startswith("projection.") for name in load_weights(exported / "encoder.safetensors")[0])
    card = (exported / "MODEL.md").read_text()
    for part in ("not for diagnosis", "## Data", "## Figures", "## Limits", "1 positive, 1 negative slides", "points"):
        assert part in card
    (told,) = read_metrics(record.run)["interval_warnings"]  # one slide of each kind
    assert about["test"]["warnings"] == [told]
    assert f"\n* {told[0].upper()}{told[1:]}\n" in card[card.index("## Limits") :]
    assert "intervals are wide" not in card
    for what in ("Slide AUC", "Patch AUC", "Patch AUC in positive slides"):
        assert f"\n{what}, 95 % bootstrap interval by patient: " in card
    config = read_config(exported / "config.yaml")
    assert config.encoder == record.config.encoder
    assert config.tracking.uri is None
    hidden = record.config.model_copy(update={"tracking": record.config.tracking.model_copy(update={"uri": "http://u:p@h"})})
    assert portable(hidden).tracking.uri is None


def test_without_truth_the_patch_threshold_is_that_of_validation_negatives_wherever_it_is_told(
    record: RunRecord, tmp_path: Path
) -> None:
    cohort = record.study.cohort
    patches = replace(cohort.patches, truth=np.full(cohort.num_patches, -1, np.int8))
    study = replace(record.study, cohort=replace(cohort, patches=patches))
    blind = replace(record, study=study, metrics={**(record.metrics or {}), "instance": None, "patch_threshold": None})
    negatives = study.patches_of(study.validation[study.labels[study.validation] == 0])
    assert 0 <= np.mean(blind.by_patch[negatives] >= blind.patch_threshold) <= 0.05
    export(blind, tmp_path / "model")
    card = (tmp_path / "model" / "MODEL.md").read_text()
    source = "the patches of negative validation slides, of which at most 5 %"
    assert f"a patch from {blind.patch_threshold:.4f} on (chosen on {source} reach it)" in card
    assert "The patch threshold was not chosen on annotated patches" in card
    row = cohort.slides.to_pylist()[1]
    slide, model = Slide(row["slide_id"], Path(row["path"]), "p", {}, {}, None), on_grid(open_exported(tmp_path / "model", CPU))
    found = predict_slide(slide_job(slide, None, {}), model, batch_size=16, num_threads=1, progress=quiet)
    predicted = row_of(slide, None, found, model, "")
    assert predicted.patch_threshold == blind.patch_threshold
    write_slide(tmp_path / "out", slide, predicted, found)
    features = json.loads((tmp_path / "out" / "geojson" / f"{slide.key}.geojson").read_text())["features"]
    assert len(features) == predicted.num_positive_patches == np.sum(found.patches.scores >= blind.patch_threshold)


def test_the_same_run_exports_the_same_bytes_and_other_folders_are_left_alone(
    record: RunRecord, exported: Path, tmp_path: Path
) -> None:
    export(record, tmp_path / "again")
    export(record, tmp_path / "again")
    for path in exported.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name
    (tmp_path / "again" / "model.json").unlink()  # a process killed in the middle leaves the files that it had written
    (tmp_path / "again" / "aggregator.safetensors").rename(tmp_path / "again" / ".aggregator.safetensors.77.tmp")
    export(record, tmp_path / "again")
    assert (tmp_path / "again" / "model.json").read_bytes() == (exported / "model.json").read_bytes()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="exists and is no exported model"):
        export(record, tmp_path / "mine")
    with pytest.raises(InputError, match="training is not finished"):
        export(replace(record, decisions=record.decisions[:2]), tmp_path / "half")
    assert not (tmp_path / "half").exists()


def test_a_damaged_export_is_refused(exported: Path, tmp_path: Path) -> None:
    for number, (name, change, says) in enumerate(
        [
            ("aggregator.safetensors", lambda content: content[:-4] + b"\0\0\0\1", "not the weights that model.json names"),
            ("model.json", lambda content: content.replace(b'"format_version": 1', b'"format_version": 9'), "reads 1"),
            ("model.json", lambda content: content[:-40], "not readable"),
        ]
    ):
        folder = tmp_path / str(number)
        shutil.copytree(exported, folder)
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        with pytest.raises(InputError, match=says):
            open_exported(folder, CPU)
    with pytest.raises(ConfigError, match="mpp"):
        on_grid(open_exported(exported, CPU), mpp=-1)


@needs_slides
def test_a_scanned_slide_with_a_tissue_filter(record: RunRecord, tmp_path: Path) -> None:
    model = on_grid(open_recorded(record, CPU), patch_px=64, mpp=1.0, background=["otsu_saturation", "edge_energy"])
    job = slide_job(Slide("cmu", CMU, "p", {}, {}, None), None, {})
    found = predict_slide(job, model, batch_size=64, num_threads=2, progress=quiet, scratch=tmp_path)
    assert found.patches.size_level0 == 128  # 64 px of 1 um on a slide of 0.499
    assert 50 < len(found.patches.scores) < 17 * 23
    assert np.isfinite(found.patches.scores).all()
    assert 0 < found.score < 1  # type: ignore[operator]
    assert not list(tmp_path.iterdir())  # the features are gone
    other = predict_slide(job, model, batch_size=17, num_threads=1, progress=quiet)
    np.testing.assert_array_equal(other.patches.x_level0, found.patches.x_level0)
    np.testing.assert_allclose(other.patches.scores, found.patches.scores, atol=1e-3)


def test_a_slide_without_tissue_is_empty_with_a_reason(record: RunRecord, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64), (244, 244, 244)).save(tmp_path / "glass.png")
    model = on_grid(open_recorded(record, CPU), background=["otsu_saturation"])
    found = predict_slide(slide_job(Slide("g", tmp_path / "glass.png", "p", {}, {}, None), None, {}), model, 8, 1, quiet)
    assert found.score is None
    assert "no tissue on the thumbnail" in found.why_empty
    assert len(found.patches.scores) == 0


@pytest.mark.parametrize(("frame", "corner"), [("qupath", (0, 0)), ("level0", (640, 384))])
def test_what_is_written_for_qupath_lies_on_the_scan(
    record: RunRecord, tmp_path: Path, frame: str, corner: tuple[int, int]
) -> None:
    path = write_scn(tmp_path / "a.scn", np.full((1024, 1024, 3), (200, 120, 180), np.uint8), (640, 384))
    model = on_grid(open_recorded(record, CPU), annotation_frame=frame)
    slide = Slide("a", path, "p", {}, {}, None)
    points = Points(np.array([[300.0, 500.0]]) + corner, np.array([-1], np.int8))
    found = predict_slide(slide_job(slide, points, {}), model, batch_size=4, num_threads=1, progress=quiet)
    assert (found.patches.x_level0.tolist(), found.patches.y_level0.tolist()) == ([932], [876])
    row = replace(row_of(slide, None, found, model, ""), patch_threshold=0.0)
    write_slide(tmp_path / "out", slide, row, found)
    (feature,) = json.loads((tmp_path / "out" / "geojson" / "a.geojson").read_text())["features"]
    assert feature["geometry"]["coordinates"][0][0] == [292 + corner[0], 492 + corner[1]]
    told = "count from there, as QuPath's do" if frame == "qupath" else "count from the corner of level 0"
    assert told in row.remark


def test_batches_are_of_one_size_but_the_last() -> None:
    assert list(in_batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(in_batches([], 3)) == []


def test_patches_are_seen_after_the_jpeg_of_training() -> None:
    patch = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    config = TileConfig(patch_px=16, jpeg_quality=30)
    number, seen = seen_by(lambda number: PatchJpeg(number, encode(patch, config), False), config)(7)
    assert number == 7
    assert seen is not None
    assert (seen != patch).any()
    assert seen_by(lambda number: PatchJpeg(number, None, False), config)(3) == (3, None)
