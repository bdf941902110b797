"""Every setting in words, read off the models: the reference in Markdown, and a configuration with each value's source."""

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hnm.config import Config, Origin, list_names
from hnm.installed import config_folder
from shards.secrets import SecretOptions, SecretText

WORDS: dict[Any, str] = {
    bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path", Any: "anything",
    type(None): "null", SecretText: "text", SecretOptions: "mapping of text to anything",
}  # fmt: skip
LIMITS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than", "min_length": "entries at least"}


@dataclass(frozen=True)
class Setting:
    """A setting of a resolved configuration.

    Attributes:
        key: dotted, such as mining.neg_ratio.
        value: as JSON.
        source: "default", "preset NAME", "config NAME or FILE", "command line", or what was given for all.
        is_default: whether the value is the default, whoever gave it.
    """

    key: str
    value: Any
    source: str
    is_default: bool


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield (dotted key, field) of every setting below a model, in the order in which it is written."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields_of(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def list_settings(config: Config, origin: Origin, unnamed: str = "default") -> list[Setting]:
    """Return every setting with where its value came from.

    Args:
        config: the resolved configuration.
        origin: of the keys that a layer gave, see `hnm.config.resolve_config`.
        unnamed: where all others came from.
    """
    given, default = config.model_dump(mode="json"), Config().model_dump(mode="json")
    settings = []
    for key, _ in fields_of(Config):
        value = _value_at(given, key)
        source = _in_words(origin[key]) if key in origin else unnamed
        settings.append(Setting(key, value, source, value == _value_at(default, key)))
    return settings


def _value_at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def _in_words(source: str) -> str:
    """Return a layer's name for people: a packaged file is called by its name."""
    if source.startswith("command line"):
        return "command line"
    path, packaged = Path(source), config_folder()
    kind = "preset" if path.parent == packaged / "presets" else "config"
    return f"{kind} {path.stem if path.is_relative_to(packaged) else path}"


def settings_reference() -> str:
    """Return the reference of all settings, presets and configs as Markdown: a section each, in the order of `Config`.

    Each key has an anchor of its own name, such as #mining.neg_ratio.
    """
    general = {name: field for name, field in Config.model_fields.items() if not _is_section(field)}
    parts = [
        "# Settings",
        "A setting is written `section.key=value` on the command line, and as `section: {key: value}` in a YAML file. What comes "
        "later is stronger: defaults, your own file (`~/.config/hnm/config.yaml`, or the one that `HNM_CONFIG` names, with "
        "device, reader, tracking, checkpoint, timeout and slurm), the preset that the YAML names (`hnm` if it names none), the "
        "YAML (`--config`), the preset of the command line (`--preset`), `section.key=value`. `null` is no value. `hnm config` "
        "prints every value and where it came from.",
        "## general\n\nFor the whole run.\n\n" + _table(general.items()),
    ]
    for name, field in Config.model_fields.items():
        if _is_section(field):
            section: Any = field.annotation
            parts.append(f"## {name}\n\n{_sentence(field.description)}\n\n{_table(fields_of(section, f'{name}.'))}")
    folder = config_folder()
    parts += [
        f"## presets\n\nMethods, for `--preset NAME`.\n\n{_list_of_files(folder / 'presets')}",
        f"## configs\n\nCohorts, for `--config NAME`.\n\n{_list_of_files(folder)}",
    ]
    return "\n\n".join(parts) + "\n"


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _table(fields: Any) -> str:
    rows = ["| key | value | default | what it does |", "|---|---|---|---|"]
    for key, field in fields:
        kind = ", ".join([_kind(field.annotation), *_limits(field)])
        default = f"`{shown(field.get_default(call_default_factory=True))}`"
        rows.append(f'| <a id="{key}"></a>`{key}` | {kind} | {default} | {_sentence(field.description)} |')
    return "\n".join(rows)


def _kind(annotation: Any) -> str:
    """Return a type in words: "whole number or none", "`exact` or `keep`", "list of text"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return " ".join([_kind(arguments[0]), *(f"({limit})" for limit in _limits(arguments[1]))])
    if origin is Literal:
        return _either([f"`{value}`" for value in arguments])
    if origin in (Union, types.UnionType):
        return _either([_kind(argument) for argument in arguments])
    if origin is list:
        return f"list of {_kind(arguments[0])}"
    if origin is dict:
        return f"mapping of {_kind(arguments[0])} to {_kind(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "settings"
    return WORDS[annotation]


def _either(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _limits(field: FieldInfo) -> list[str]:
    return [
        f"{word} {getattr(rule, name):g}"
        for rule in field.metadata for name, word in LIMITS.items() if getattr(rule, name, None) is not None
    ]  # fmt: skip


def shown(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        given = {key: each for key, each in value.items() if each not in (None, [], {})}
        return f"{{{', '.join(f'{key}: {shown(each)}' for key, each in given.items())}}}"
    return "null" if value is None else str(value)


def _sentence(text: str | None) -> str:
    """Return a description as a sentence, fit for a cell of a table."""
    text = (text or "").strip().replace("|", "\\|").replace("<", "&lt;")
    is_word = text.split(" ", 1)[0].rstrip(",").isalpha()  # not the name of a value, such as otsu_saturation
    return (text[:1].upper() + text[1:] if is_word else text) + ("" if text.endswith((".", "!", "?")) else ".")


def _list_of_files(folder: Path) -> str:
    """Return a line for each YAML file of a folder: its name, and the first sentence of its header."""
    lines = []
    for name in list_names(folder):
        text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
        header = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
        first_sentence = re.split(r"(?<=[.])\s", header)[0]
        lines.append(f"* `{name}`: {first_sentence}")
    return "\n".join(lines)
