"""The whole configuration: defaults < the user's own < preset named in the YAML (else hnm) < YAML < --preset < key=value.

Each section's model stands in the file that uses it; here they are only put together, read and checked.
"""

import difflib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hnm.aggregator.aggregate import AggregateConfig
from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.finetune import FinetuneConfig
from hnm.encoder.simclr import PretrainConfig
from hnm.engine.checkpoint import CheckpointConfig
from hnm.engine.engine import EngineConfig
from hnm.engine.ranks import TimeoutConfig
from hnm.installed import config_folder
from hnm.mining.mining import MiningConfig
from hnm.private import fill, keep_secrets, own_file, own_settings, real_word, shown_word
from hnm.rounds_config import RoundsConfig
from hnm.run.study import DataConfig
from hnm.run.tracking import TrackingConfig
from hnm.slurm_config import SlurmConfig
from hnm.statistics.thresholds import EvaluateConfig
from shards.errors import InputError
from shards.files import whole_file
from shards.reading.reader import ReaderConfig
from shards.secrets import hide, scrub
from shards.tiling.tile import TileConfig


class ConfigError(InputError):
    """A key or value of the configuration is wrong: misuse, exit code 2."""


class Config(BaseModel):
    """Everything that decides what a command computes."""

    model_config = ConfigDict(extra="forbid")

    seed: int = Field(0, ge=0, description="every random draw of the run is derived from it")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where models live; auto takes a GPU if there is one"
    )
    tile: TileConfig = Field(default_factory=TileConfig, description="cutting slides into patches")
    data: DataConfig = Field(default_factory=DataConfig, description="labels, splits")
    reader: ReaderConfig = Field(default_factory=ReaderConfig, description="reading patches")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="how training runs: ranks, precision")
    encoder: EncoderConfig = Field(default_factory=EncoderConfig, description="the network of the patches")
    pretrain: PretrainConfig = Field(default_factory=PretrainConfig, description="SimCLR")
    aggregate: AggregateConfig = Field(default_factory=AggregateConfig, description="the multiple-instance aggregator")
    mining: MiningConfig = Field(default_factory=MiningConfig, description="pseudo labels and hard negatives")
    finetune: FinetuneConfig = Field(default_factory=FinetuneConfig, description="supervised contrastive fine-tuning")
    rounds: RoundsConfig = Field(default_factory=RoundsConfig, description="the loop")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="how slides are called and counted")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="MLflow")
    slurm: SlurmConfig = Field(default_factory=SlurmConfig, description="what `hnm submit` asks the cluster for")
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig, description="saving in the middle of a phase")
    timeout: TimeoutConfig = Field(default_factory=TimeoutConfig, description="how long ranks wait for each other")


DEFAULT_PRESET = "hnm"
Tree = dict[str, Any]
Origin = dict[str, str]  # where each dotted key came from
RECORDED = "config.yaml"  # how runs, exported models, cross-validations and submissions record what was resolved
# Settings that are gone: their values that changed no result, dropped where they were recorded; and why nothing is lost.
RETIRED = {
    "mining.selection": (
        ("gather", "histogram"),
        "both values chose the same patches in the same time and memory, so nothing is lost. Leave it out",
    ),
}


def list_names(folder: Path) -> list[str]:
    """Return the names of the YAML files in `folder`."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_config(config: str | None = None, preset: str | None = None, overrides: list[str] | None = None) -> Config:
    """Put the layers together and check the result.

    Args:
        config: a packaged name such as "colon", or a path to a YAML file; None = defaults.
        preset: name of a method in configs/presets; stronger than the YAML, whose own it replaces. None: that, or hnm.
        overrides: "section.key=value" strings; values are YAML.

    Raises:
        ConfigError: an unknown file, key or a bad value, with the nearest name or the allowed range.
    """
    return resolve_config(config, preset, overrides)[0]


def resolve_config(
    config: str | None = None, preset: str | None = None, overrides: list[str] | None = None
) -> tuple[Config, Origin]:
    """Return what `load_config` does, and where each key came from that is not the default."""
    tree: Tree = {}
    origin: Origin = {}
    path = _find(config, config_folder(), "config") if config is not None else None
    content: Tree = {}
    if path is not None:
        content = _read_recorded(path) if path.name == RECORDED else _read_yaml(path)
    _overlay(tree, own_settings(), str(own_file()), origin)
    named = content.pop("preset", None) or DEFAULT_PRESET
    if preset is None:  # else the YAML's own is not laid under it: a method never holds parts of another
        _overlay_preset(tree, str(named), origin)
    _overlay(tree, content, str(path), origin)
    if preset is not None:
        _overlay_preset(tree, preset, origin)
    _overlay_overrides(tree, overrides, origin)
    return check_config(tree, origin, _folder_of(path)), origin


def check_config(tree: Tree, origin: Origin, folder: Path | None = None) -> Config:
    """Return the checked configuration.

    Args:
        tree: nested sections.
        origin: where each dotted key came from, for the message.
        folder: that has recorded it, without its secrets; None: none has.

    Raises:
        ConfigError: all that is wrong, a line each.
    """
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem, origin) for problem in error.errors())) from None
    found = fill(dict(config), folder)
    config = config.model_copy(update={name: getattr(config, name).model_copy(update=found[name]) for name in found})
    for name, section in (("pretrain", config.pretrain), ("finetune", config.finetune)):
        chunk_size, is_fixed = section.chunk_size, section.train in ("norm_bias", "lora")  # their statistics stay
        is_ours = config.encoder.name is None  # others: refused when they are built
        if chunk_size and is_ours and config.encoder.norm == "batch" and not is_fixed:
            raise ConfigError(
                f"{name}.chunk_size is {chunk_size}, but encoder.norm is batch, whose statistics would be those of a chunk "
                f"instead of the batch. Set {name}.chunk_size to 0, or encoder.norm to instance"
            )
    return config


def dump_config(config: Config) -> str:
    """Return the resolved configuration as YAML; secrets are hidden in it."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def record_config(path: Path, config: Config) -> None:
    """Write the resolved configuration to `path`, config.yaml of a folder, and keep its secrets in the user's home."""
    with whole_file(path) as temporary:
        temporary.write_text(dump_config(config), encoding="utf-8")
    keep_secrets(_folder_of(path) or path.parent, dict(config))


def read_config(path: Path, overrides: list[str] | None = None) -> Config:
    """Read a configuration that `dump_config` wrote: it says all, so no preset is laid under it.

    Args:
        path: config.yaml of a run directory or an exported model.
        overrides: "section.key=value" strings, as of `load_config`.

    Raises:
        ConfigError: a key or value is wrong.
    """
    tree, origin = _read_recorded(path), {"": str(path)}
    _overlay_overrides(tree, overrides, origin)
    return check_config(tree, origin, _folder_of(path))


def difference(old: Config, new: Config) -> list[str]:
    """Return "key: old value -> new value" for every key in which two configurations differ."""
    before, after = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    keys = [key for key in before | after if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys]


def _find(name: str, folder: Path, what: str) -> Path:
    """Return the YAML file of a packaged name or of a path."""
    for path in (folder / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path
    known = list_names(folder)
    raise ConfigError(
        f"--{what} {name}: there is no such {what}.{_nearest(name, known)} Known: {', '.join(known)}, or a path"
    )


def _read_yaml(path: Path) -> Tree:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected sections such as 'mining:', found {type(content).__name__}")
    return content


def _read_recorded(path: Path) -> Tree:
    """Return a recorded configuration without retired keys that changed no result."""
    content = _read_yaml(path)
    for key, (values, _) in RETIRED.items():
        section, name = key.split(".")
        if isinstance(found := content.get(section), dict) and found.get(name) in values:
            del found[name]
    return content


def _folder_of(path: Path | None) -> Path | None:
    """Return the folder whose recorded configuration `path` is, also that of its jobs (slurm/config.yaml); None: it is none."""
    if path is None or path.name != RECORDED:
        return None
    return path.parent.parent if path.parent.name == "slurm" else path.parent


def _parse_override(text: str) -> Tree:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text!r}: an override is written section.key=value, such as mining.neg_ratio=0.05")
    try:
        leaf: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{text!r}: the value is not readable as YAML: {error}") from error
    for part in reversed(key.split(".")):
        leaf = {part: leaf}
    tree: Tree = leaf
    return tree


def _overlay_preset(tree: Tree, name: str, origin: Origin) -> None:
    path = _find(name, config_folder() / "presets", "preset")
    _overlay(tree, _read_yaml(path), str(path), origin)


def _overlay_overrides(tree: Tree, overrides: list[str] | None, origin: Origin) -> None:
    for override in overrides or []:
        _overlay(tree, _parse_override(real_word(override)), f"command line ({shown_word(override)})", origin)


def _overlay(tree: Tree, layer: Tree, source: str, origin: Origin, prefix: str = "") -> None:
    """Lay `layer` over `tree` in place, and note in `origin` where each key came from."""
    for key, value in layer.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict) and isinstance(tree.get(key, {}), dict):
            _overlay(tree.setdefault(key, {}), value, source, origin, f"{dotted}.")
        else:
            tree[key] = value
        origin[dotted] = source


def _explain(problem: Any, origin: Origin) -> str:
    """Return one line: where, which key, what value, what would be right."""
    path = [str(part) for part in problem["loc"]]
    is_unknown = problem["type"] == "extra_forbidden" or path[-1:] == ["[key]"]
    path = path[:-1] if path[-1:] == ["[key]"] else path  # of a mapping, the key itself is wrong
    key = ".".join(path)
    parents = (".".join(path[:depth]) for depth in range(len(path), -1, -1))  # of an item of a list, the list's own key
    where = next((origin[parent] for parent in parents if parent in origin), "configuration")
    if is_unknown and key in RETIRED:
        return f"{where}: {key} is gone: {RETIRED[key][1]}"
    if is_unknown:
        fields = _fields_of(path[:-1])
        return f"{where}: unknown key {key}.{_nearest(path[-1], fields)} Known here: {', '.join(fields)}"
    value = "***" if key.startswith("reader.storage_options") else hide(scrub(repr(problem["input"])))
    return f"{where}: {key} = {value}: {problem['msg']}"


def _fields_of(path: list[str]) -> list[str]:
    """Return the field names of the section at `path`, or the keys that the mapping there may have."""
    model: Any = Config
    for part in path:
        model = get_args(model)[1] if get_origin(model) is dict else model.model_fields[part].annotation
    return list(get_args(get_args(model)[0])) if get_origin(model) is dict else list(model.model_fields)


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def flatten(tree: Tree, prefix: str = "") -> Tree:
    """Return nested sections as one level of dotted keys: {"mining": {"ties": "exact"}} is {"mining.ties": "exact"}."""
    flat: Tree = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
