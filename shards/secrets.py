"""Settings that may hold a password or a token: as text, in pages, files, logs and errors they hide it; `reveal` tells it.

    "https://me:pw@host/x"  ──str──▶ "https://***@host/x"        {"key": "AKIA", "anon": False}  ──▶ {"key": "***", "anon": False}
                            ──reveal──▶ as it was given

What was hidden once is known from then on: `scrub` takes it out of texts of others, such as a library's error with the URL.
"""

import re
from typing import Any, Self
from urllib.parse import unquote

from shards.errors import InputError

MASK = "***"
# Options of fsspec that hold no secret and are needed to understand a run; every other one is hidden, but for true and false.
SHOWN_OPTIONS = {
    "endpoint_url", "region_name", "signature_version", "addressing_style", "client_kwargs", "config_kwargs", "s3",
    "default_block_size", "default_cache_type", "asynchronous", "timeout", "connect_timeout", "read_timeout", "retries",
}  # fmt: skip
_LOGIN = re.compile(r"://([^/\s?#]*)@")  # user:password@ of a URL
_VALUE = r"""("[^"]*"|'[^']*'|[^\s&;"']+)"""
# NAME=value of a URL's query or of a shell line; $NAME and $(command) only say where the secret is
_NAMED = re.compile(
    r"(?i)([\w-]*(?:secret|token|passw(?:or)?d|passphrase|pwd|credentials?|signature|(?:api|access|private)[-_]?key)"
    rf"|(?<![\w-])(?:sig|auth|key))=(?!\"?\$){_VALUE}"
)
_SHORTEST = 6  # characters: a shorter secret is hidden where it is set, but not looked for in other texts

_known: set[str] = set()


def hide(text: str) -> str:
    """Return a text without logins of URLs and without values of names such as TOKEN=."""
    return _NAMED.sub(rf"\1={MASK}", _LOGIN.sub(f"://{MASK}@", text))


def scrub(text: str) -> str:
    """Return a text without any secret that this process has been given, whoever made the text."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return hide(text) if _LOGIN.search(text) else text


def _remember(*secrets: str) -> None:
    for secret in secrets:
        bare = secret.strip("\"'")
        _known.update(word for word in (bare, unquote(bare)) if len(word) >= _SHORTEST and MASK not in word)


def _hidden_option(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _hidden_option(str(key), each) for key, each in value.items()}
    if value is None or isinstance(value, bool):
        return value
    if name not in SHOWN_OPTIONS:
        return MASK
    return hide(value) if isinstance(value, str) else value


def _leaves(value: Any, name: str = "") -> list[str]:
    """Return the texts that are hidden below a value."""
    if isinstance(value, dict):
        return [text for key, each in value.items() for text in _leaves(each, str(key))]
    return [str(value)] if _hidden_option(name, value) == MASK and value != MASK else []


class _Secret:
    """A value that hides itself."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value: Any = value._value if isinstance(value, _Secret) else value

    @property
    def shown(self) -> Any:
        """The value as everybody may see it."""
        raise NotImplementedError

    @property
    def is_hidden(self) -> bool:
        """Was it read from a file that hides it already?"""
        return any(mark in str(self._value) for mark in (f"://{MASK}@", f"={MASK}", f": '{MASK}'"))

    def _told(self) -> Any:
        if self.is_hidden:
            raise InputError(
                f"{self}: what {MASK} stands for is in no file of a run. Put it into your own ~/.config/hnm/config.yaml, or name "
                "the file that has it: HNM_CONFIG=FILE"
            )
        return self._value

    def __str__(self) -> str:
        return str(self.shown)

    def __repr__(self) -> str:
        return repr(self.shown)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return self._value == (other._value if isinstance(other, _Secret) else other)

    def __hash__(self) -> int:
        return hash(str(self._value))

    @classmethod
    def _schema(cls, given: Any) -> Any:
        from pydantic_core import core_schema

        def bare(value: Any) -> Any:
            return value._value if isinstance(value, cls) else value

        return core_schema.no_info_after_validator_function(
            cls,
            core_schema.no_info_before_validator_function(bare, given),
            # in a union it is tried on the other kinds, too
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: getattr(value, "shown", value)),
        )


class SecretText(_Secret):
    """A URL or a shell line that may hold a login, a token or a password."""

    __slots__ = ()

    def __init__(self, text: "str | SecretText") -> None:
        super().__init__(text)
        for login in _LOGIN.findall(self._value):
            _remember(login, *login.split(":", 1)[-1:])
        _remember(*(value for _, value in _NAMED.findall(self._value)))

    @property
    def shown(self) -> str:
        """The text with *** in place of what is secret."""
        return hide(self._value)

    def reveal(self) -> str:
        """Return the text as it was given.

        Raises:
            InputError: it was read from a file that hides it.
        """
        return str(self._told())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Take text."""
        return cls._schema(handler(str))


class SecretOptions(_Secret):
    """Options of a library, credentials among them: all are hidden but true, false, none and SHOWN_OPTIONS."""

    __slots__ = ()

    def __init__(self, options: "dict[str, Any] | SecretOptions") -> None:
        super().__init__(options)
        _remember(*_leaves(self._value))

    @property
    def shown(self) -> dict[str, Any]:
        """The options with *** in place of what may be secret."""
        return {name: _hidden_option(name, value) for name, value in self._value.items()}

    def reveal(self) -> dict[str, Any]:
        """Return the options as they were given.

        Raises:
            InputError: they were read from a file that hides them.
        """
        return dict(self._told())

    @classmethod
    def none(cls) -> Self:
        """Return no options."""
        return cls({})

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Take a mapping of text."""
        return cls._schema(handler(dict[str, Any]))
