"""`hnm import`: cohorts from the files of other tools, by way of the command line."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from hnm.aggregator.bags import Bags
from hnm.encoder.contrastive_model import fresh_model, save_model
from shards.cohort.cohort import Cohort
from shards.cohort.cohort_table import write_csv
from shards.drawn.drawn_slides import make_whole_slides
from tests.command_line import assert_refused, hnm
from tests.shards.exchange.foreign_files import clam_features, trident
from tests.tiny import TINY, tiny_config


@pytest.fixture(scope="module")
def slides_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whole_slides(tmp_path_factory.mktemp("drawn"), 6, 512, 32, seed=0)


def _jpegs(cohort: Cohort, slide: int) -> dict[tuple[int, int], bytes]:
    """Return the JPEG of each patch of a slide by its place."""
    found = {}
    for row in range(*cohort.patch_bounds[slide : slide + 2]):
        of_patch = cohort.patches.take(np.array([row]))
        data = cohort.shard_path(int(of_patch.shard[0])).read_bytes()
        start = int(of_patch.offset[0])
        found[int(of_patch.x_level0[0]), int(of_patch.y_level0[0])] = data[start : start + int(of_patch.nbytes[0])]
    return found


def test_just_the_patches_of_another_tool_are_cut(slides_csv: Path, tmp_path: Path) -> None:
    plain = ["tile.patch_px=32", "tile.mpp=0.5", "tile.background=none"]
    assert hnm("tile", slides_csv, tmp_path / "all", "--workers", "1", *plain).exit_code == 0
    every = Cohort.open(tmp_path / "all")
    coords = tmp_path / "coords"
    coords.mkdir()
    xy = np.array([[64, 32], [480, 480], [0, 0], [500, 10]])
    for slide_id in every.slide_ids:
        trident(coords / f"{slide_id}_patches.h5", xy, 32)
    result = hnm("import", "coords", slides_csv, coords, tmp_path / "some", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert "24 patches in 6 files of TRIDENT: tile.patch_px=32, tile.mpp=0.5" in result.output
    assert "6 points without a patch of their own, or coordinates" in " ".join(result.output.split())
    some = Cohort.open(tmp_path / "some")
    assert some.slides["patch_level0"].to_pylist() == [32] * 6
    for slide in (0, 1):
        chosen, whole = _jpegs(some, slide), _jpegs(every, slide)
        assert list(chosen) == [(64, 32), (480, 480), (0, 0)]
        assert all(whole[place] == jpeg for place, jpeg in chosen.items())
    positive = every.patches.truth[slice(*every.patch_bounds[1:3])] == 1
    assert positive.any()  # and the annotation is looked at here, too
    assert set(some.patches.truth.tolist()) <= {0, 1}


def test_coordinates_of_another_slide_are_a_failed_slide_with_both_numbers(slides_csv: Path, tmp_path: Path) -> None:
    coords = tmp_path / "coords"
    coords.mkdir()
    for number in range(6):
        trident(coords / f"slide-00{number}.h5", np.array([[0, 0]]), 32, level0_height=512 + 100 * (number == 3))
    result = hnm("import", "coords", slides_csv, coords, tmp_path / "cohort", "--workers", "1")
    assert_refused(
        result, 1, "slide-003: failed: ", "is of a slide of 512 x 612 level-0 pixels; the slide has 512 x 512"
    )
    assert_refused(
        hnm("import", "coords", slides_csv, slides_csv.parent / "slides", tmp_path / "none"), 1, "there is: "
    )


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory, tiny_cohort: Path) -> Path:
    """The tiny cohort's slides embedded by a drawn encoder, and a table without pictures."""
    folder = tmp_path_factory.mktemp("features")
    save_model(folder / "encoder.safetensors", fresh_model(tiny_config().encoder, seed=1), {})
    command = ["embed", tiny_cohort, "--encoder", folder / "encoder.safetensors", "--out", folder / "h5", *TINY]
    assert hnm(*command).exit_code == 0
    slides = Cohort.open(tiny_cohort).slides.select(["slide_id", "label", "split", "patient_id"]).to_pylist()
    write_csv(folder / "slides.csv", list(slides[0]), [row.values() for row in slides])
    return folder


def test_features_that_were_exported_come_back_bit_for_bit_and_train(
    features: Path, tiny_slides: Path, tiny_cohort: Path, tmp_path: Path
) -> None:
    cohort, run = tmp_path / "cohort", tmp_path / "run"
    result = hnm("import", "features", features / "slides.csv", features / "h5", cohort)
    assert result.exit_code == 0, result.output
    opened, bags, own = Cohort.open(cohort), Bags(cohort / "features", torch.device("cpu")), Cohort.open(tiny_cohort)
    for slide, slide_id in enumerate(opened.slide_ids):
        with h5py.File(features / "h5" / f"{slide_id}.h5") as file:
            np.testing.assert_array_equal(bags.bag(slide).numpy(), file["features"][()])
    np.testing.assert_array_equal(opened.patches.x_level0, own.patches.x_level0)
    assert opened.slides["patch_level0"].to_pylist() == [16] * 10
    quick = ["device=cpu", "tracking.enabled=false", "aggregate.epochs=2", "aggregate.validate_every=1"]
    assert hnm("train", cohort, run, "--preset", "frozen", *quick).exit_code == 0
    result = hnm("evaluate", run)
    assert result.exit_code == 0, result.output
    assert "no model/: the encoder of these features is not ours" in result.output
    assert "a cohort of features, without pictures" in (run / "report.html").read_text()
    assert_refused(hnm("train", cohort, tmp_path / "rounds", *TINY), 1, "rounds.num_rounds=2 fine-tunes an encoder")
    assert_refused(hnm("export", run, tmp_path / "model"), 1, "hnm export needs pictures")
    assert_refused(hnm("pretrain", cohort, tmp_path / "pretrained", *TINY), 1, "Pretraining needs pictures")
    assert_refused(hnm("predict", run, tiny_slides, "--out", tmp_path / "scores"), 1, "hnm predict needs pictures")
    crossval = ["crossval", cohort, tmp_path / "folds", "--folds", "3"]
    assert_refused(hnm(*crossval, *TINY), 1, "rounds.num_rounds=2 fine-tunes an encoder")
    encoder = ["--encoder", features / "encoder.safetensors"]
    assert_refused(hnm(*crossval, "--preset", "frozen", *encoder), 1, "An encoder needs pictures")
    assert_refused(hnm("embed", cohort, *encoder, "--out", tmp_path / "again"), 1, "Embedding needs pictures")
    assert not (tmp_path / "folds").exists()


def test_the_side_of_patches_that_a_file_does_not_tell(slides_csv: Path, tmp_path: Path) -> None:
    for number in range(6):
        xy = np.array([[0, 0], [480, 480]])
        clam_features(tmp_path / f"slide-00{number}.h5", np.ones((2, 3), np.float32), xy, 32)
    command = ["import", "features", slides_csv, tmp_path, tmp_path / "cohort"]
    result = hnm(*command)
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "3 slides have an annotation that does not say what is positive" in words
    assert "does not tell both where the patches are and how large" in words
    assert not Cohort.open(tmp_path / "cohort").has_places
    result = hnm(*command, "tile.patch_px=32", "tile.jpeg_quality=80")
    assert "without effect on features: tile.jpeg_quality" in " ".join(result.output.split())
    assert "annotations taken as positive: Tumor (3 slides" in result.output
    cohort = Cohort.open(tmp_path / "cohort")
    assert cohort.has_places
    assert -1 not in cohort.patches.truth


def test_tensors_and_arrays_are_features_without_places(features: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    for number, path in enumerate(sorted((features / "h5").glob("*.h5"))):
        with h5py.File(path) as file:
            rows = file["features"][()].astype(np.float16)
        if number % 2:
            np.save(given / f"{path.stem}.npy", rows)
        else:
            torch.save({"feats": torch.from_numpy(rows)[None]}, given / f"{path.stem}.pt")
    result = hnm("import", "features", features / "slides.csv", given, tmp_path / "cohort")
    assert result.exit_code == 0, result.output
    assert "10 files have no coordinates" in result.output
    cohort = Cohort.open(tmp_path / "cohort")
    assert not cohort.has_places
    assert set(cohort.patches.x_level0.tolist()) == {-1}
    assert np.load(next((tmp_path / "cohort" / "features").glob("rows-*.npy"))).dtype == np.float16
    (given / f"{path.stem}.npy").unlink()
    result = hnm("import", "features", features / "slides.csv", given, tmp_path / "cohort")
    assert_refused(result, 1, "1 of 10 slides failed", "there is no file of features for this slide")
