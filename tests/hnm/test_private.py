"""hnm.private and the layers of hnm.config: the user's own configuration, and who gets to know a secret."""

import os
import stat
from pathlib import Path

import pytest

from hnm.config import Config, ConfigError, dump_config, load_config, read_config, record_config
from hnm.private import hidden_words, real_word
from shards.errors import InputError

SECRETS = [
    "tracking.uri=http://me:hunter-2@host:5000", "reader.shards_url=s3://mine/shards",
    "reader.storage_options={key: AKIAXXXX, secret: opensesame, client_kwargs: {endpoint_url: 'https://s3.host'}}",
]  # fmt: skip
SECRET = ("hunter-2", "AKIAXXXX", "opensesame")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HNM_CONFIG", raising=False)
    return tmp_path / "home" / "hnm"


def recorded(folder: Path, config: Config) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    return folder / "config.yaml"


def test_the_own_configuration_lies_over_the_defaults_and_under_everything_else(home: Path, tmp_path: Path) -> None:
    home.mkdir(parents=True)
    (home / "config.yaml").write_text("slurm: {partition: gpu, cpus: 4}\ntracking: {experiment: ours}\n")
    (tmp_path / "mine.yaml").write_text("slurm: {cpus: 8}\n")
    config = load_config(str(tmp_path / "mine.yaml"), None, ["tracking.experiment=theirs"])
    assert (config.slurm.partition, config.slurm.cpus, config.tracking.experiment) == ("gpu", 8, "theirs")
    assert read_config(recorded(tmp_path / "run", Config())) == Config()  # what is on record is not touched
    (home / "config.yaml").write_text("mining: {neg_ratio: 1}\n")
    with pytest.raises(InputError, match=r"home/hnm/config.yaml: mining: your own configuration holds device, .*--config FILE"):
        load_config()


def test_a_runs_files_hide_its_secrets_which_later_commands_of_the_same_user_find(home: Path, tmp_path: Path) -> None:
    config = load_config(None, None, SECRETS)
    run = tmp_path / "run"
    record_config(run / "config.yaml", config)
    assert not any(secret in (run / "config.yaml").read_text() for secret in SECRET)
    (kept,) = (home / "secrets").iterdir()
    assert (stat.S_IMODE(kept.stat().st_mode), stat.S_IMODE(kept.parent.stat().st_mode)) == (0o600, 0o700)
    assert read_config(run / "config.yaml") == config
    for place in (run / "slurm", run / "repeat-0" / "fold-1"):  # a job of the folder, and a fold's run
        place.mkdir(parents=True)
        record_config(place / "config.yaml", config)
        assert load_config(str(place / "config.yaml")) == config
    assert list((home / "secrets").iterdir()) == [kept]  # once is enough
    record_config(run / "config.yaml", Config())
    assert not kept.exists()


def test_a_strangers_run_does_not_get_ones_secrets(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own.yaml"
    reader = "{shards_url: s3://mine/shards, storage_options: {key: AKIAXXXX}}"
    own.write_text(f"tracking: {{uri: 'http://me:hunter-2@host:5000'}}\nreader: {reader}\n")
    monkeypatch.setenv("HNM_CONFIG", str(own))
    same = ["tracking.uri='http://***@host:5000'", "reader.shards_url=s3://mine/shards", "reader.storage_options={key: '***'}"]
    mine = read_config(recorded(tmp_path / "mine", load_config(None, None, same)))
    assert mine.tracking.uri is not None
    assert mine.tracking.uri.reveal() == "http://me:hunter-2@host:5000"
    assert mine.reader.storage_options.reveal() == {"key": "AKIAXXXX"}
    for changed in (["tracking.uri='http://***@elsewhere:5000'"], ["reader.shards_url=s3://theirs/shards"]):
        path = recorded(tmp_path / changed[0].partition(".")[0], load_config(None, None, [*same, *changed]))
        theirs = read_config(path)
        with pytest.raises(InputError, match=r"what \*\*\* stands for is in no file of a run"):
            (theirs.tracking.uri if "tracking" in changed[0] else theirs.reader.storage_options).reveal()  # type: ignore[union-attr]


def test_what_cannot_be_kept_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "home").write_text("a file")
    record_config(tmp_path / "run" / "config.yaml", load_config(None, None, SECRETS[:1]))
    assert "the passwords that" in (said := capsys.readouterr().err)
    assert "HNM_CONFIG=FILE" in said


def test_a_command_line_hides_its_secrets_and_the_process_knows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train", "cohort", "--ranks", "2", "reader.threads=1", *SECRETS, "reader={threads: 3}", "tracking.uri=sqlite:///a.db"]
    shown, environment = hidden_words(words)
    assert not any(secret in " ".join(shown) for secret in SECRET)
    assert [word for word in shown if "***" not in word] == [*words[:5], SECRETS[1], words[-1]]
    monkeypatch.setattr(os, "environ", {**os.environ, **environment})
    assert [real_word(word) for word in shown] == words
    assert hidden_words(shown) == (shown, environment)  # a child's child
    assert load_config(None, None, shown[4:]) == load_config(None, None, words[4:])


@pytest.mark.parametrize("word", ["reader.storage_options=opensesame", "tracking.uri={a: 'http://me:hunter-2@x'}"])
def test_errors_do_not_tell_them(word: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, None, [word])
    assert not any(secret in str(error.value) for secret in SECRET)
    assert word.partition("=")[0] in str(error.value)
