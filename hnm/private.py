"""What belongs to the user and to no run: the own configuration, and the secrets that a run's files hide.

    ~/.config/hnm/config.yaml (or HNM_CONFIG=FILE)   servers, credentials, how jobs run: the layer just above the defaults
    ~/.config/hnm/secrets/RUN-DIGEST.yaml            mode 0600: what *** stands for in the config.yaml of this folder
    HNM_SECRETS in the environment                   what *** stands for in this process's command line; `ps` shows no environment

A run's files go to colleagues, to MLflow and to backups, a home does not; and the nodes of a cluster see it. What is slow to
import is imported where it is used: the command line begins here.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shards.errors import InputError
from shards.secrets import MASK, SecretOptions, SecretText, hide

Tree = dict[str, Any]
OWN_SECTIONS = ("device", "reader", "tracking", "checkpoint", "timeout", "slurm")  # where and how, never what is computed
# Filled in together or not at all: credentials go only where they were meant to go.
TOGETHER = (("tracking", ("uri",)), ("reader", ("shards_url", "storage_options")))
KIND = {"uri": SecretText, "shards_url": SecretText, "storage_options": SecretOptions}
PARENTS = 3  # a fold's run lies three folders below what its secrets were kept for
ENVIRONMENT = "HNM_SECRETS"


def own_file() -> Path:
    """Return the path of the user's own configuration, there or not."""
    return Path(os.environ.get("HNM_CONFIG") or _home() / "config.yaml")


def own_settings() -> Tree:
    """Return the user's own configuration; none is none.

    Raises:
        InputError: HNM_CONFIG names no file, it is no YAML, or it has settings that decide what is computed.
    """
    import yaml

    path = own_file()
    if not path.is_file():
        if os.environ.get("HNM_CONFIG"):
            raise InputError(f"HNM_CONFIG={path}: there is no such file")
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError):
        raise InputError(f"{path}: not readable as YAML") from None  # its lines may hold a password
    if not isinstance(content, dict) or (foreign := [str(name) for name in content if name not in OWN_SECTIONS]):
        found = ", ".join(foreign) if isinstance(content, dict) else type(content).__name__
        raise InputError(
            f"{path}: {found}: your own configuration holds {', '.join(OWN_SECTIONS)}. What decides results belongs into a file "
            "that the command names: --config FILE"
        )
    return content


def fill(sections: Tree, folder: Path | None) -> Tree:
    """Return what *** stands for, {section: {name: value}}, as far as it is known here.

    Args:
        sections: the configuration's sections, as objects.
        folder: that the configuration was read from; None: from no run's.
    """
    found: Tree = {}
    for section, names in TOGETHER:
        asked = {name: getattr(sections[section], name) for name in names}
        if not any(value is not None and value.is_hidden for value in asked.values()):
            continue
        for source in _sources(folder):
            given = source.get(section) or {}
            known = {name: KIND[name](value) if (value := given.get(name)) else type(asked[name])({}) if name == "storage_options"
                     else None for name in names}  # fmt: skip
            if all(_shown(known[name]) == _shown(asked[name]) for name in names):
                found[section] = known
                break
    return found


def keep_secrets(folder: Path, sections: Tree) -> None:
    """Keep, for later commands, the secrets that the files of `folder` hide; only the user may read them.

    Args:
        folder: a run, or what else has a config.yaml.
        sections: the configuration's sections, as objects.
    """
    import yaml

    from shards.files import whole_file

    secrets: Tree = {}
    for section, names in TOGETHER:
        given = {name: value for name in names if (value := getattr(sections[section], name))}
        if any(_shown(value) != value._value for value in given.values()) and not any(v.is_hidden for v in given.values()):
            secrets[section] = {name: value.reveal() for name, value in given.items()}
    path = _kept_file(folder)
    try:
        if not secrets:
            path.unlink(missing_ok=True)
        elif not any(secrets.items() <= source.items() for source in _sources(folder)):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with whole_file(path) as temporary:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with open(descriptor, "w", encoding="utf-8") as file:
                    yaml.safe_dump({"of": str(folder.resolve()), **secrets}, file)
    except OSError as error:
        print(
            f"warning: {path}: {error.strerror}: the passwords that {folder} hides are not kept. Later commands need "
            "HNM_CONFIG=FILE, a file that has them",
            file=sys.stderr, flush=True,
        )  # fmt: skip


def _shown(value: SecretText | SecretOptions | None) -> Any:
    return None if value is None else value.shown


def _sources(folder: Path | None) -> Iterator[Tree]:
    """Yield what may know a secret of a folder's configuration: what was kept for it or above it, the own configuration."""
    import yaml

    if folder is not None:
        here = folder.resolve()
        for place in (here, *list(here.parents)[:PARENTS]):
            if (path := _kept_file(place)).is_file():
                yield yaml.safe_load(path.read_text(encoding="utf-8"))
    yield own_settings()


def _home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "hnm"


def _kept_file(folder: Path) -> Path:
    place = str(folder.resolve())
    return _home() / "secrets" / f"{folder.resolve().name}-{hashlib.sha256(place.encode()).hexdigest()[:16]}.yaml"


def hidden_words(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the words of a command line as everybody may see them, and the environment in which `real_word` knows them.

    Args:
        words: after `hnm`.
    """
    known: dict[str, str] = json.loads(os.environ.get(ENVIRONMENT, "{}"))
    shown = []
    for word in words:
        if (name := shown_word(word)) != word and word not in known:
            known[name := f"{name.partition('=')[0]}={MASK}{len(known) + 1}"] = word
        shown.append(name if name in known else word)
    return shown, {ENVIRONMENT: json.dumps(known)} if known else {}


def shown_word(word: str) -> str:
    """Return a word of the command line without the value that may be, or have in it, a secret."""
    key, is_setting, value = word.partition("=")
    whole = key in ("reader", "tracking", "slurm") or key.startswith("reader.storage_options")
    if is_setting and (whole or hide(value) != value) and not value.startswith(MASK):
        return f"{key}={MASK}"
    return word


def real_word(word: str) -> str:
    """Return a word of this process's command line as the user gave it."""
    return str(json.loads(os.environ.get(ENVIRONMENT, "{}")).get(word, word))


def hide_command_line() -> None:
    """Begin this process anew, in place, where its command line holds a secret: `ps` shows it to every user of the machine."""
    words = sys.argv[1:]
    shown, environment = hidden_words(words)
    if shown != words:
        command = [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(words)], *shown]
        os.execve(sys.executable, command, {**os.environ, **environment})
