"""The reference of the settings: every key once, with its type, default and range, read off the models."""

import re

import pytest

from hnm.config import Config, flatten, list_names, resolve_config
from hnm.installed import config_folder
from hnm.settings_reference import fields_of, list_settings, settings_reference, shown

TEXT = settings_reference()


def row_of(key: str) -> str:
    (row,) = [line for line in TEXT.splitlines() if line.startswith(f'| <a id="{key}"></a>`{key}` |')]
    return row


def test_every_setting_is_in_it_once_with_a_description() -> None:
    fields = dict(fields_of(Config))
    assert set(flatten(Config().model_dump(mode="json"))) <= set(fields)
    assert re.findall(r'<a id="([^"]+)">', TEXT) == sorted(fields, key=list(fields).index)
    for key, field in fields.items():
        assert field.description, key
        assert row_of(key).count(" | ") == 3, key  # four cells: a description with a bar in it would break the table


def test_sections_are_in_the_order_of_the_configuration() -> None:
    sections = [name for name in Config.model_fields if name not in ("seed", "device")]
    assert re.findall(r"^## (\w+)$", TEXT, re.MULTILINE) == ["general", *sections, "presets", "configs"]


@pytest.mark.parametrize(
    ("key", "cells"),
    [
        ("seed", "| whole number, at least 0 | `0` | Every random draw"),
        ("tile.mpp", "| number or null, more than 0 | `null` | Microns per pixel"),
        ("tile.jpeg_quality", "| whole number, at least 1, at most 100 | `90` |"),
        ("mining.ties", "| `exact` or `keep` | `exact` |"),
        ("rounds.keep_features", "| true or false | `false` |"),
        ("tile.background", "`canny_std` or `otsu_saturation`, entries at least 1 | `[auto]` |"),
        ("finetune.augment.recipe", "| `simclr` |"),
        ("slurm.stages", "`embed` or `doctor` to settings | `{}` |"),
        ("aggregate.pairs_per_step", "whole number (at least 1) or `ranks` | `1`"),
    ],
)
def test_types_ranges_and_defaults_in_words(key: str, cells: str) -> None:
    assert cells in row_of(key)


def test_every_preset_and_config_is_listed_with_its_first_sentence() -> None:
    for folder in (config_folder(), config_folder() / "presets"):
        for name in list_names(folder):
            assert re.search(rf"^\* `{name}`: [A-Z].*\.$", TEXT, re.MULTILINE), name
    assert "* `dsmil`: DSMIL: frozen encoder, no rounds, no ranking term.\n" in TEXT


def test_each_value_has_its_source() -> None:
    config, origin = resolve_config("colon", "its2clr", ["engine.deepspeed=zero1", "slurm.stages.train.nodes=2", "seed=0"])
    settings = {setting.key: setting for setting in list_settings(config, origin)}
    source = {key: setting.source for key, setting in settings.items()}
    assert source["tile.patch_px"] == "config colon"
    assert source["mining.neg_ratio"] == "preset its2clr"
    assert source["mining.ties"] == "default"  # the YAML names hnm, which its2clr replaces
    assert source["mining.positive_threshold"] == "default"
    assert source["engine.deepspeed"] == source["slurm.stages"] == source["seed"] == "command line"
    assert settings["seed"].is_default
    assert not settings["slurm.stages"].is_default
    assert shown(settings["slurm.stages"].value) == "{train: {nodes: 2}}"
