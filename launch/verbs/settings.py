"""What `hnm config` prints: the settings of a command or of a run with their sources, or the reference."""

from pathlib import Path

from hnm.config import ConfigError, read_config, resolve_config
from hnm.settings_reference import Setting, list_settings, settings_reference, shown


def print_reference() -> int:
    """Print the reference of all settings as Markdown."""
    print(settings_reference(), end="")
    return 0


def print_settings(words: list[str], config_name: str | None, preset: str | None, only_changed: bool) -> int:
    """Print a line for each setting: key, value, source.

    Args:
        words: a run directory, or overrides, of the command line.
        config_name: as of a command.
        preset: as of a command.
        only_changed: leave out those whose value is the default.

    Raises:
        ConfigError: a setting is wrong, or the words do not go together.
    """
    settings = _settings(words, config_name, preset)
    told = [setting for setting in settings if not (only_changed and setting.is_default)]
    width = max((len(setting.key) for setting in settings))
    for setting in told:
        print(f"{setting.key:{width}}  {shown(setting.value):22}  {setting.source}")
    if len(told) < len(settings):
        print(f"{len(settings) - len(told)} others have their defaults: the same command without --changed prints them")
    return 0


def _settings(words: list[str], config_name: str | None, preset: str | None) -> list[Setting]:
    folders = [word for word in words if "=" not in word or Path(word).is_dir()]
    if not folders:
        return list_settings(*resolve_config(config_name, preset, words))
    if len(words) > 1 or config_name or preset:
        raise ConfigError(f"{folders[0]}: a run has its settings on record. Give it alone, or leave it out")
    recorded = Path(folders[0]) / "config.yaml"
    if not recorded.is_file():
        raise ConfigError(
            f"{folders[0]}: no run directory and no exported model (config.yaml is missing). Settings are written section.key=value"
        )
    return list_settings(read_config(recorded), {}, unnamed=f"recorded in {recorded}")
