"""`hnm suggest`: what it makes of small images, whole slides and machines; its output is a configuration that loads."""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hnm.config import Config, load_config
from launch.cli.main import app
from launch.verbs.suggestion import Advice, Facts, as_yaml, power_below, suggest

SMALL = Facts(30, 28, 58, 28, False, 1000, 500, True, (), 24, cores=2, free_gb=50.0)
WHOLE = Facts(160, 239, 399, 160, True, 100_000, 80_000, False, (0.24, 0.25), 0, 4, 80.0, 32, 9_000.0)


def loaded(facts: Facts, folder: Path) -> Config:
    (folder / "suggested.yaml").write_text(as_yaml(suggest(facts), ["of a test"]), encoding="utf-8")
    return load_config(str(folder / "suggested.yaml"))


def said(facts: Facts) -> str:
    return "\n".join(each.why for each in suggest(facts) if not each.key)


def test_small_images_on_two_cores(tmp_path: Path) -> None:
    config = loaded(SMALL, tmp_path)
    assert (config.tile.patch_px, config.tile.mpp) == (64, None)  # 7 along 500 px; 96 px would be 5
    assert (config.encoder.stem, config.encoder.width) == ("small", 0.25)
    assert "Method: --preset frozen. With 99 labelled slides, and here are 58" in said(SMALL)
    assert config.mining == load_config(preset="hnm").mining  # of a file that names no preset, so that any may be given
    # 15 x 7 patches less rounding (122 by area), 58 images, three fifths: 4,245
    assert config.pretrain.epochs == 24
    assert config.pretrain.batch_size == 256
    assert "tests every slide" in said(SMALL)
    assert "--folds 5" in said(SMALL)
    assert "18 patches of 96 px a second" in said(SMALL)


def test_small_images_of_known_scale_keep_it(tmp_path: Path) -> None:
    assert loaded(replace(SMALL, mpp=(0.5, 0.55), num_without_mpp=22), tmp_path).tile.mpp == 0.55
    assert loaded(replace(SMALL, mpp=(0.5, 0.55), num_without_mpp=22), tmp_path).tile.assume_mpp == 0.55
    assert loaded(replace(SMALL, mpp=(0.5, 0.55), num_without_mpp=0), tmp_path).tile.assume_mpp is None


def test_whole_slides_on_gpus(tmp_path: Path) -> None:
    config = loaded(WHOLE, tmp_path)
    assert (config.tile.patch_px, config.tile.mpp) == (224, 0.5)
    assert (config.encoder.stem, config.encoder.width) == ("imagenet", 1.0)
    assert (config.rounds.num_rounds, config.pretrain.batch_size) == (5, 512)
    assert config.mining == load_config(preset="hnm").mining
    assert "hnm crossval" not in said(WHOLE)
    assert "Assumed: 25% of a slide is tissue" in said(WHOLE)
    assert load_config(overrides=["tile.mpp=0.5"]).tile.mpp == loaded(replace(WHOLE, mpp=(0.6,)), tmp_path).tile.mpp
    assert loaded(replace(WHOLE, mpp=(0.7,)), tmp_path).tile.mpp == 1.0


def test_without_a_gpu_whole_slides_are_cut_coarser(tmp_path: Path) -> None:
    config = loaded(replace(WHOLE, num_gpus=0, cores=2), tmp_path)
    assert (config.tile.mpp, config.pretrain.batch_size, config.rounds.num_rounds) == (2.0, 256, 2)
    assert "at 0.5 there would be about 3,9" in as_yaml(suggest(replace(WHOLE, num_gpus=0, cores=2)), [])


def test_what_no_setting_mends_is_said() -> None:
    assert "THERE IS NO POSITIVE SLIDE" in said(replace(SMALL, num_positive=0, smallest_class=0))
    assert "Only 2 patients of the rarer class" in said(replace(SMALL, smallest_class=2))
    assert "ONLY 3 GB ARE FREE" in said(replace(WHOLE, free_gb=3.0))


@pytest.mark.parametrize(("number", "power"), [(1, 8), (15.9, 8), (16, 16), (300, 256)])
def test_a_batch_is_a_power_of_two(number: float, power: int) -> None:
    assert power_below(number) == power


def test_reasons_are_comments_and_sections_are_whole() -> None:
    advice = [Advice("tile.mpp", None, "a: #b"), Advice("tile.patch_px", 64, "why"), Advice("", None, "a remark")]
    assert as_yaml(advice, ["head"]) == "# head\n# a remark\ntile:\n  # a: #b\n  mpp: null\n  # why\n  patch_px: 64\n"


def test_the_preset_that_is_named_is_whole_above_the_file(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text(as_yaml(suggest(SMALL), []), encoding="utf-8")
    frozen, hnm = (load_config(str(tmp_path / "first.yaml"), preset) for preset in ("frozen", "hnm"))
    assert (frozen.rounds.num_rounds, frozen.aggregate.kind) == (0, "abmil_gated")
    assert (hnm.rounds.num_rounds, hnm.aggregate.kind) == (2, "dsmil")


def test_the_command_prints_a_file_for_config(tiny_slides: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["suggest", str(tiny_slides)])
    assert result.exit_code == 0, result.output
    assert CliRunner().invoke(app, ["suggest", str(tiny_slides), "--out", str(tmp_path / "first.yaml")]).exit_code == 0
    assert (tmp_path / "first.yaml").read_text(encoding="utf-8") == result.output
    assert load_config(str(tmp_path / "first.yaml")).tile.patch_px == 32
    assert "10 slides, 5 positive and 5 negative; 64 x 64 px (median of 10 looked at), microns per pixel unknown" in result.output
    lines = tiny_slides.read_text(encoding="utf-8").splitlines()
    (tmp_path / "gone.csv").write_text("\n".join([*lines[:2], lines[2].replace(".png", ".gone")]), encoding="utf-8")
    refused = CliRunner().invoke(app, ["suggest", str(tmp_path / "gone.csv")])
    assert refused.exit_code == 1
    assert "none of 2 slides that were looked at can be read" in refused.output
