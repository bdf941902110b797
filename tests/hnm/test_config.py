"""Layers of the configuration, its errors, and every YAML that is packaged."""

import re
from pathlib import Path

import pytest
import yaml

from hnm.config import Config, ConfigError, difference, dump_config, list_names, load_config, read_config
from hnm.installed import config_folder

CONFIGS, PRESETS = list_names(config_folder()), list_names(config_folder() / "presets")


def test_the_promised_names_are_packaged() -> None:
    assert {"demo", "colon", "camelyon16", "tcga_luad"} <= set(CONFIGS)
    assert {"dsmil", "its2clr", "hnm", "hnm-paper"} <= set(PRESETS)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_loads_and_its_header_gives_a_command_and_an_override_that_loads(name: str) -> None:
    header = (config_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    assert re.search(r"^#\s+hnm ", header, re.MULTILINE)
    override = re.search(r"^#.*override.*?:\s+([a-z_]+\.[a-z_.]+=[^\s)]+)", header, re.MULTILINE)
    assert override is not None
    key, value = override[1].split("=")
    changed = difference(load_config(name), load_config(name, None, [override[1]]))
    assert len(changed) == 1
    assert changed[0].startswith(f"{key}: ")
    assert changed[0].endswith(f" -> {value}")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("config", [None, *CONFIGS])
def test_every_preset_goes_with_every_config(config: str | None, preset: str) -> None:
    assert isinstance(load_config(config, preset), Config)


@pytest.mark.parametrize(("name", "mpp"), [("camelyon16", 2.0), ("tcga_luad", 1.0)])
def test_the_papers_settings(name: str, mpp: float) -> None:
    config = load_config(name)
    encoder, aggregate, mining, finetune = config.encoder, config.aggregate, config.mining, config.finetune
    assert (config.tile.patch_px, config.tile.mpp) == (224, mpp)
    assert (encoder.architecture, encoder.norm, encoder.width, encoder.projection_dim) == (
        "resnet18",
        "instance",
        1.0,
        256,
    )
    assert (config.pretrain.tau, config.pretrain.augment.recipe) == (0.5, "simclr")
    assert (aggregate.epochs, aggregate.lr, aggregate.weight_decay, aggregate.halve_every_epochs) == (
        200,
        2e-4,
        1e-4,
        75,
    )
    assert (aggregate.bag_weight, aggregate.max_weight, aggregate.ranking_weight) == (0.5, 0.5, 0.1)
    assert aggregate.ranking_top_k == 10
    assert (mining.positive_threshold, mining.neg_ratio) == (0.3, 0.05)
    assert (mining.candidates_per_slide, mining.hard_share, aggregate.num_members) == (0, 1, 1)
    assert (mining.self_paced_start, mining.self_paced_end) == (0.2, 0.8)
    assert (finetune.tau, finetune.lr, finetune.weight_decay, finetune.batch_size) == (0.07, 0.01, 1e-4, 512)
    assert (finetune.epochs_per_round, finetune.cosine_after_epoch) == (5, 10)
    assert (finetune.candidate_share, finetune.self_paced_share) == (0.20, 0.05)


@pytest.mark.parametrize("name", ["camelyon16", "tcga_luad"])
def test_where_the_papers_configs_differ_from_the_preset_that_they_name(name: str) -> None:
    """The resolved settings of the two, all of them: what is not here is hnm-paper's or the default."""
    lines = [line for line in difference(load_config(None, "hnm-paper"), load_config(name)) if not line.startswith("tile.")]
    expected = [
        "data.encoder_splits: ['train', 'validation'] -> ['train']",
        "aggregate.halve_every_epochs: 37.5 -> 75.0",
        "mining.neg_ratio: 0.2 -> 0.05",
        "mining.ties: keep -> exact",
        "rounds.num_rounds: 4 -> 20",
        "rounds.choose: last -> validation",
    ]
    assert sorted(lines) == sorted(expected + ["data.label_column: label -> label_EGFR"] * (name == "tcga_luad"))
    tile = {line for line in difference(load_config(), load_config(name)) if line.startswith("tile.")}
    own = {
        "camelyon16": {"tile.skip_bad_outlines: False -> True", "tile.mpp: None -> 2.0"},
        "tcga_luad": {"tile.mpp: None -> 1.0"},
    }[name]
    assert tile == own | {"tile.jpeg_quality: 90 -> 80", "tile.background: ['auto'] -> ['otsu_saturation']"}


def test_without_a_preset_it_is_the_method(tmp_path: Path) -> None:
    ours = load_config(None, "hnm")
    assert load_config() == ours != Config()
    (tmp_path / "mine.yaml").write_text("seed: 5\n")
    assert difference(load_config(str(tmp_path / "mine.yaml")), ours) == ["seed: 5 -> 0"]
    assert load_config(None, "its2clr").mining.neg_ratio == 1.0
    changed = difference(Config(), load_config(None, "dsmil"))  # hnm is not under a preset that is named
    assert changed == ["aggregate.ranking_weight: 0.1 -> 0.0", "rounds.num_rounds: 4 -> 0"]


def test_what_is_on_record_gets_no_preset_laid_under_it(tmp_path: Path) -> None:
    """Also where a key is missing, as in a configuration of before the key was there."""
    recorded = yaml.safe_load(dump_config(Config()))
    del recorded["mining"]["hard_share"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(recorded), encoding="utf-8")
    assert read_config(tmp_path / "config.yaml") == Config()
    assert read_config(tmp_path / "config.yaml", ["seed=3"]) == Config(seed=3)
    with pytest.raises(ConfigError, match=r"command line \(sed=3\): unknown key sed"):
        read_config(tmp_path / "config.yaml", ["sed=3"])


def test_what_the_presets_stand_for() -> None:
    dsmil, its2clr, paper = (load_config("colon", name) for name in ("dsmil", "its2clr", "hnm-paper"))
    assert (dsmil.rounds.num_rounds, dsmil.aggregate.ranking_weight) == (0, 0.0)
    assert (its2clr.mining.neg_ratio, its2clr.aggregate.ranking_weight) == (1.0, 0.0)
    assert (paper.data.encoder_splits, paper.mining.ties) == (["train", "validation"], "keep")
    for preset in (dsmil, its2clr, paper):  # nothing is left of the preset that the YAML names
        assert preset.aggregate.num_members == 1
    for preset in (its2clr, paper):
        assert (preset.mining.candidates_per_slide, preset.mining.hard_share) == (0, 1)
    assert (paper.aggregate.ranking_weight, paper.mining.positive_threshold) == (0.1, 0.3)
    ours = load_config("colon")
    assert (ours.aggregate.num_members, ours.aggregate.ranking_weight) == (5, 0.5)
    assert (ours.mining.candidates_per_slide, ours.mining.hard_share) == (0.05, 0.3333)


def test_a_preset_that_is_asked_for_replaces_the_yamls_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("preset: frozen\naggregate: {epochs: 7}\n")
    config = load_config(str(tmp_path / "mine.yaml"), "hnm")
    assert (config.rounds.num_rounds, config.aggregate.kind, config.aggregate.epochs) == (4, "dsmil", 7)


def test_each_layer_is_stronger_than_the_one_before(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("preset: its2clr\nmining: {ties: keep}\nseed: 5\n")
    config = load_config(str(mine))
    assert (config.mining.neg_ratio, config.mining.ties, config.seed) == (1.0, "keep", 5)
    config = load_config(str(mine), "hnm")
    assert (config.mining.neg_ratio, config.mining.ties, config.seed) == (0.2, "exact", 5)
    config = load_config(str(mine), "hnm", ["mining.neg_ratio=0.05", "seed=6", "seed=7"])
    assert (config.mining.neg_ratio, config.seed) == (0.05, 7)


def test_a_resolved_config_reads_back_as_it_was(tmp_path: Path) -> None:
    config = load_config("colon", "hnm-paper", ["data.witness_rate=0.1"])
    (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    assert read_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("value", ["gather", "histogram"])
def test_a_retired_key_is_read_where_it_was_recorded_and_refused_in_what_a_user_writes(tmp_path: Path, value: str) -> None:
    config = load_config("colon", None, ["seed=5"])
    tree = config.model_dump(mode="json")
    tree["mining"]["selection"] = value
    recorded, own = tmp_path / "config.yaml", tmp_path / "mine.yaml"
    for path in (recorded, own):
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert read_config(recorded) == load_config(str(recorded)) == config
    for arguments in ((str(own), None, None), (None, None, [f"mining.selection={value}"])):
        with pytest.raises(ConfigError, match=r"mining\.selection is gone: .* nothing is lost\. Leave it out"):
            load_config(*arguments)
    tree["mining"]["selection"] = "best"
    recorded.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mining\.selection is gone"):
        read_config(recorded)


def test_difference_names_key_and_both_values() -> None:
    old, new = load_config(), load_config(None, None, ["seed=3", "finetune.augment.recipe=weak"])
    assert difference(old, old) == []
    assert difference(old, new) == ["seed: 0 -> 3", "finetune.augment.recipe: simclr -> weak"]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        (
            "mining.neg_ratioo=0.1",
            ("unknown key mining.neg_ratioo", "Did you mean 'neg_ratio'?", "(mining.neg_ratioo=0.1)"),
        ),
        ("minning.neg_ratio=0.1", ("unknown key minning", "Did you mean 'mining'?")),
        ("finetune.augment.recipee=weak", ("unknown key finetune.augment.recipee", "Did you mean 'recipe'?")),
        ("zzz=1", ("unknown key zzz", "Known here: seed")),
        ("mining.neg_ratio=1.5", ("mining.neg_ratio = 1.5", "less than or equal to 1")),
        ("finetune.batch_size=many", ("finetune.batch_size = 'many'", "valid integer")),
        ("mining.ties=maybe", ("mining.ties = 'maybe'", "'exact' or 'keep'")),
        ("data.encoder_splits=[test]", ("data.encoder_splits", "'test'", "'train' or 'validation'", "command line")),
        ("mining=3", ("mining = 3", "dictionary")),
        ("mining.neg_ratio", ("'mining.neg_ratio'", "section.key=value")),
        ("=3", ("section.key=value",)),
        ("seed=[1", ("not readable as YAML",)),
        ("tile.positive_class=tumour", ("positive_class needs points_file",)),
        ("tile.positive_groups=[Tumor: Positive]", ("Quote it: 'tile.positive_groups=[\"Tumor: Positive\"]'",)),
        ("tile.negative_groups=Normal: Necrosis", ("Quote it: 'tile.negative_groups=[\"Normal: Necrosis\"]'",)),
        ("tile.negative_groups=[2, fat]", ("Quote it: 'tile.negative_groups=[\"2\", \"fat\"]'",)),
    ],
)
def test_a_wrong_override_is_named_with_its_remedy(override: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("demo" if "positive_class" not in override else None, None, [override])
    for part in parts:
        assert part in str(caught.value)


def test_all_mistakes_are_listed_at_once_with_the_file_each_came_from(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"mining": {"neg_ration": 0.1}, "seed": -1}))
    with pytest.raises(ConfigError) as caught:
        load_config(str(mine), None, ["device=tpu"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert sum(line.startswith(f"{mine}: ") for line in lines) == 2
    assert sum(line.startswith("command line (device=tpu): ") for line in lines) == 1


def test_unknown_files_are_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config colonn: .*Did you mean 'colon'\? Known: .*camelyon16"):
        load_config("colonn")
    with pytest.raises(ConfigError, match=r"--preset hmn: .*Did you mean 'hnm'\?"):
        load_config("colon", "hmn")
    for content, message in (("- a\n- b\n", "expected sections"), ("a: [", "not readable as YAML")):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(ConfigError, match=message):
            load_config(str(tmp_path / "bad.yaml"))
    (tmp_path / "bad.yaml").write_text("preset: none-such\n")
    with pytest.raises(ConfigError, match="none-such"):
        load_config(str(tmp_path / "bad.yaml"))


def test_keys_that_are_no_words_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("3: 4\n")
    with pytest.raises(ConfigError, match="3"):
        load_config(str(tmp_path / "bad.yaml"))


def test_one_group_is_a_list_of_one() -> None:
    assert load_config(overrides=["tile.positive_groups=Tumor"]).tile.positive_groups == ["Tumor"]
    assert load_config(overrides=['tile.positive_groups=["Tumor: Positive"]']).tile.positive_groups == ["Tumor: Positive"]
