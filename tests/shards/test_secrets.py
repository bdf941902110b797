"""shards.secrets: what is hidden, what is shown, and what a library's error may not tell."""

import pytest
from pydantic import BaseModel

from shards.errors import InputError
from shards.secrets import SecretOptions, SecretText, hide, scrub


class Settings(BaseModel):
    url: SecretText | None = None
    options: SecretOptions = SecretOptions({})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:hunter2@host:5000/x", "http://***@host:5000/x"),
        ("postgresql://me:p@ss@host/db?sslmode=on&password=hunter2", "postgresql://***@host/db?sslmode=on&password=***"),
        ("https://host/a?X-Amz-Signature=abc&X-Amz-Date=60&sig=x%2F1", "https://host/a?X-Amz-Signature=***&X-Amz-Date=60&sig=***"),
        ("export HF_TOKEN='a b' TOKENIZERS_PARALLELISM=false", "export HF_TOKEN=*** TOKENIZERS_PARALLELISM=false"),
        ('export HF_TOKEN=$(cat ~/.hf) SECRET_ACCESS_KEY="$KEY"', 'export HF_TOKEN=$(cat ~/.hf) SECRET_ACCESS_KEY="$KEY"'),
        ("sqlite:////a/mlflow.db?timeout=0.2", "sqlite:////a/mlflow.db?timeout=0.2"),
        ("s3://bucket/cohort@2/shards", "s3://bucket/cohort@2/shards"),
        ("module load cuda/12; ulimit -n 4096", "module load cuda/12; ulimit -n 4096"),
    ],
)  # fmt: skip
def test_logins_and_tokens_are_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert hide(text) == hide(shown) == str(SecretText(text)) == shown
    assert SecretText(text).reveal() == text


def test_options_are_hidden_but_for_those_that_are_known_to_be_harmless() -> None:
    url = {"endpoint_url": "https://s3.host"}
    given = {"key": "AKIAXXXX", "pin": 123456, "anon": False, "client_kwargs": {**url, "proxy_auth": ["u", "p"]}}
    shown = {"key": "***", "pin": "***", "anon": False, "client_kwargs": {**url, "proxy_auth": "***"}}
    settings = Settings.model_validate({"url": "http://me:hunter2@host", "options": given})
    assert settings.model_dump(mode="json") == settings.model_dump() == {"url": "http://***@host", "options": shown}
    for text in (repr(settings), str(settings), settings.model_dump_json(), f"{settings.options}"):
        assert not any(secret in text for secret in ("AKIA", "123456", "hunter2"))
    assert settings.options.reveal() == given
    assert settings == settings.model_copy() != Settings.model_validate({"url": "http://me:hunter3@host", "options": given})
    read_back = Settings.model_validate(settings.model_dump())
    for hidden in (read_back.url, read_back.options):
        assert hidden is not None
        with pytest.raises(InputError, match=r"HNM_CONFIG=FILE"):
            hidden.reveal()


def test_a_secret_is_taken_out_of_what_others_say() -> None:
    SecretText("http://somebody:correct%2Fhorse@host")
    SecretOptions({"secret": "battery-staple", "short": "at"})
    said = "GET http://somebody:correct%2Fhorse@host at 12:00 failed: correct/horse, battery-staple"
    assert scrub(said) == "GET http://***@host at 12:00 failed: ***, ***"
