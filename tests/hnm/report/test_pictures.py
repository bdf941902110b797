"""Pictures from a real run: which patches are shown, what the map samples, what a resumed run's curves are."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from hnm.mining.coordinator import load_mined
from hnm.report.draw_embedding import NUM_PATCHES, draw_embedding, project, sample_patches
from hnm.report.draw_patches import Row, draw_montage, enlarged, fit_middle
from hnm.report.draw_rounds import draw_encoder_losses, encoder_losses, series_of
from hnm.report.draw_style import evenly_spread
from hnm.report.pictures import TEXTS, draw_heatmaps, draw_pictures, scored_patches, true_area
from hnm.report.record import RunRecord, read_record
from hnm.run.study import open_study
from hnm.run_rounds import round_folder
from launch.process.run_directory import read_run
from shards.cohort.cohort import Cohort
from shards.drawn.drawn_slides import write_asap
from shards.errors import InputError
from shards.reading.reader import PatchReader, ReaderConfig


@pytest.fixture
def record(evaluated_run: Path) -> RunRecord:
    config, cohort = read_run(evaluated_run)
    return read_record(evaluated_run, config, open_study(Cohort.open(cohort), config.data, config.seed))


def test_every_picture_of_an_evaluated_run_is_there(evaluated_run: Path) -> None:
    names = {path.name for path in (evaluated_run / "figures").glob("*.png")}
    assert names == {f"{name}.png" for name in TEXTS}
    for name in names:
        with Image.open(evaluated_run / "figures" / name) as picture:
            assert picture.width >= 1000
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20  # not an empty sheet
    assert len(list((evaluated_run / "figures" / "heatmaps").glob("*.jpg"))) == 10


def test_what_cannot_be_drawn_is_said_and_the_rest_is_drawn(record: RunRecord, tmp_path: Path) -> None:
    study = record.study
    one_class = replace(study, test=study.test[study.labels[study.test] == 1])
    (tmp_path / "curves.png").write_bytes(b"of an earlier report")
    with PatchReader(study.cohort, ReaderConfig()) as reader:
        pictures = draw_pictures(replace(record, study=one_class), reader, torch.device("cpu"), tmp_path)
    by_name = {picture.name: picture for picture in pictures}
    assert by_name["curves"].path is None
    assert "all 1 test slides are positive" in by_name["curves"].reason
    assert not (tmp_path / "curves.png").exists()
    assert all(picture.path is not None for name, picture in by_name.items() if name != "curves")


def test_a_montage_shows_the_patch_itself(record: RunRecord, tmp_path: Path) -> None:
    ids = load_mined(round_folder(record.run, 0)).negatives[:3]
    with PatchReader(record.study.cohort, ReaderConfig()) as reader:
        draw_montage(tmp_path / "a.png", [Row("row", ids, np.ones(3))], record, reader, tell_truth=False)
        patch = reader.read(ids[:1])[0].permute(1, 2, 0).numpy()  # (16, 16, 3)
        with pytest.raises(InputError, match="no round has mined such a patch"):
            draw_montage(tmp_path / "b.png", [Row("row", ids[:0], np.ones(0))], record, reader, tell_truth=False)
    with Image.open(tmp_path / "a.png") as picture:
        shown = np.asarray(picture)[30 : 30 + 112 : 7, 8 : 8 + 112 : 7]
    np.testing.assert_array_equal(shown, patch)


def test_patches_are_enlarged_by_whole_pixels_and_names_keep_both_ends() -> None:
    patch = np.random.default_rng(0).integers(0, 255, (27, 27, 3), np.uint8)
    large = np.asarray(enlarged(patch, 112))
    assert large.shape == (108, 108, 3)
    np.testing.assert_array_equal(large[::4, ::4], patch)
    assert enlarged(np.zeros((224, 224, 3), np.uint8), 112).size == (112, 112)
    assert fit_middle("TCGA-05-4244-01Z-00-DX1", 12) == "TCGA-…00-DX1"
    assert fit_middle("short", 12) == "short"


def test_the_map_samples_mined_patches_and_every_slide(record: RunRecord) -> None:
    ids = sample_patches(record)
    mined = load_mined(round_folder(record.run, record.chosen))
    assert len(ids) == len(np.unique(ids)) <= NUM_PATCHES
    assert np.isin(mined.negatives, ids).all()
    assert np.isin(mined.candidates, ids).all()
    assert len(np.unique(record.study.cohort.patches.slide[ids])) == 10
    np.testing.assert_array_equal(ids, sample_patches(record))


def test_the_map_finds_the_main_directions() -> None:
    random = np.random.default_rng(0)
    plane = random.standard_normal((200, 2)) * (5, 2)
    turn = np.linalg.qr(random.standard_normal((16, 16)))[0]
    features = np.pad(plane, ((0, 0), (0, 14))) @ turn + 3
    places, method = project(features.astype(np.float32))
    assert method == "PCA, 100% of the variance"
    between = np.linalg.norm(plane[:, None] - plane, axis=2)
    np.testing.assert_allclose(np.linalg.norm(places[:, None] - places, axis=2), between, atol=1e-3)
    assert places.shape == (200, 2)


def test_a_missing_encoder_leaves_out_the_map_only(record: RunRecord, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(record.run, run)
    (run / "encoder-start.safetensors").unlink()
    with (
        PatchReader(record.study.cohort, ReaderConfig()) as reader,
        pytest.raises(InputError, match="no such file"),
    ):
        draw_embedding(tmp_path / "a.png", replace(record, run=run), reader, torch.device("cpu"))


def test_heatmaps_without_the_slides_files(record: RunRecord, tmp_path: Path) -> None:
    cohort = record.study.cohort
    gone = cohort.slides.set_column(1, "path", [[str(tmp_path / "gone.png")] * 10])
    moved = replace(record, study=replace(record.study, cohort=replace(cohort, slides=gone)))
    paths = draw_heatmaps(moved, [0, 1], tmp_path)
    assert sorted(paths) == [0, 1]
    with Image.open(paths[1]) as picture:
        assert picture.width == 900
    patches = scored_patches(record, 1)
    assert len(patches.scores) == 16
    np.testing.assert_array_equal(patches.scores, record.by_patch[16:32])


def test_an_annotation_is_drawn_in_the_frame_that_the_table_names(record: RunRecord, tmp_path: Path) -> None:
    write_asap(tmp_path / "a.xml", [("Tumor", np.array([[8.0, 8.0], [40.0, 8.0], [40.0, 24.0]]))])
    cohort = record.study.cohort
    table = cohort.slides.set_column(
        cohort.slides.column_names.index("annotation"), "annotation", [[str(tmp_path / "a.xml")] * 10]
    )
    for name, value in (("annotation_frame", "qupath"), ("frame_x_level0", 640), ("frame_y_level0", 384)):
        table = table.append_column(name, [[value] * 10])
    moved = replace(record, study=replace(record.study, cohort=replace(cohort, slides=table)))
    area = true_area(moved, 0)
    assert area is not None
    assert area.bounds == (648, 392, 680, 408)


def test_a_step_that_was_told_twice_counts_once() -> None:
    events = [
        {"event": "phase", "name": "finetune"},
        {"event": "metrics", "phase": "finetune", "step": 1, "negative_loss": 5.0},
        {"event": "metrics", "phase": "finetune", "step": 0, "negative_loss": 7.0},
        {"event": "metrics", "phase": "finetune", "step": 1, "negative_loss": 4.0, "positive_loss": 1.0},
        {"event": "metrics", "phase": "aggregate", "step": 1, "negative_loss": 0.0},
    ]
    steps, values = series_of(events, "finetune", "negative_loss")
    assert steps.tolist() == [0, 1]
    assert values.tolist() == [7.0, 4.0]
    assert series_of(events, "pretrain", "loss")[0].size == 0


def test_pretraining_and_fine_tuning_lie_on_one_axis_of_epochs() -> None:
    def ended(phase: str, step: int, **losses: float) -> dict[str, Any]:
        return {"event": "metrics", "phase": phase, "step": step, **losses}

    events = [ended("pretrain", 60 * epoch, loss=5.0 - epoch) for epoch in (1, 2, 2, 3)]  # stopped in the third epoch
    between = [(30, 0.5), (150, 2.5), (150, 2.5)]
    events += [{"event": "step", "phase": "pretrain", "step": s, "epoch": e, "step_loss": 4.0} for s, e in between]
    events += [ended("finetune", 0, negative_loss=3.0), ended("finetune", 1, negative_loss=2.0, positive_loss=6.0)]
    events += [{"event": "step", "phase": "finetune", "step": 9, "epoch": 1.5, "step_positive_loss": 6.5}]
    found = encoder_losses(events, 3, 60)
    assert found["pretraining"].ends.tolist() == [1, 2, 3]
    assert found["pretraining"].means.tolist() == [4, 3, 2]
    assert found["pretraining"].places.tolist() == [0.5, 2.5]
    assert found["negative"].ends.tolist() == [4, 5]
    assert (found["positive"].ends.tolist(), found["positive"].places.tolist()) == ([5], [4.5])
    tuned = encoder_losses([event for event in events if event["phase"] == "finetune"], 3, 60)
    assert (list(tuned), tuned["negative"].ends.tolist()) == (["negative", "positive"], [1, 2])  # with --encoder


def test_the_curves_that_a_run_has_drawn_begin_where_pretraining_ends(record: RunRecord) -> None:
    axes = Figure().subplots()
    draw_encoder_losses(axes, record)  # 1 epoch of 4 steps, then 2 rounds of 1 epoch
    (pretraining,) = [line for line in axes.get_lines() if line.get_label() == "pretraining (NT-Xent)"]
    (negative,) = [line for line in axes.get_lines() if line.get_label() == "fine-tuning, negative-anchored"]
    np.testing.assert_array_equal(pretraining.get_xdata(), [1])
    np.testing.assert_array_equal(negative.get_xdata(), [2, 3])
    assert axes.get_xlabel().startswith("epochs done")


def test_rounds_are_spread_evenly() -> None:
    assert evenly_spread(3, 5) == [0, 1, 2]
    assert evenly_spread(21, 5) == [0, 5, 10, 15, 20]
    assert evenly_spread(21, 5, also=[7]) == [0, 5, 7, 10, 15, 20]
