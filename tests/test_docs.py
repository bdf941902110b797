"""README and docs say what is so: commands parse, settings load, paths, messages and rooms exist, links lead somewhere."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from hnm.config import Config, load_config
from launch.cli.main import app
from tests.documents import CODE, PAGES, commands_of, name_of
from tests.paths import ROOT

RESULTS = ROOT / "benchmarks" / "results"
SETTING = re.compile(rf"(?<![\w.])((?:{'|'.join(Config.model_fields)})(?:\.\w+)+)(?:=([^\s`)]+))?")
ENDINGS = ("safetensors", "json", "conf", "py", "onnx")  # mining.json is a file, no setting
FOLDERS = ("hnm", "shards", "launch", "benchmarks", "tests", "docs", "slurm", "configs", ".ci")


def parse(words: list[str]) -> None:
    """Let the real command line read a command, without doing it; a mere name (`hnm tile`) or "..." need not be whole."""
    command: Any = typer.main.get_command(app)
    is_whole, words = "..." not in words, [word for word in words if word != "..."]
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no hnm {words[0]}"
        command = command.commands[words.pop(0)]
    try:
        command.make_context("hnm", list(words))
    except Exception as error:
        if type(error).__name__ in ("MissingParameter", "NoArgsIsHelpError") and not (is_whole and words):
            return
        raise


def test_the_readme_is_a_front_door() -> None:
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("\n") <= 150


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_command_parses(path: Path) -> None:
    for words in commands_of(path.read_text(encoding="utf-8")):
        if words[0] != words[0].lower():  # `hnm COMMAND --help`: a placeholder
            continue
        try:
            parse(words)
        except Exception as error:
            pytest.fail(f"{name_of(path)}: hnm {' '.join(words)}: {error!r}")


def test_commands_are_found_and_wrong_ones_refused() -> None:
    assert commands_of("`hnm status run/`, and") == [["status", "run/"]]
    assert commands_of("    hnm logs a --rank 3        hnm cancel a   # ends") == [["logs", "a", "--rank", "3"], ["cancel", "a"]]
    assert commands_of("```bash\nhnm tile s.csv c --merge\n```\n") == [["tile", "s.csv", "c", "--merge"]]
    assert sum(len(commands_of(path.read_text(encoding="utf-8"))) for path in PAGES) > 60
    with pytest.raises(Exception, match="no-such-option"):
        parse(["tile", "slides.csv", "cohort", "--no-such-option"])
    with pytest.raises(AssertionError, match="no hnm tyle"):
        parse(["tyle"])


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_setting_exists_and_its_value_loads(path: Path) -> None:
    for key, value in SETTING.findall(path.read_text(encoding="utf-8")):
        if key.endswith(ENDINGS):
            continue
        model: Any = Config
        for part in key.split("."):
            if not hasattr(model, "model_fields"):
                break
            assert part in model.model_fields, f"{name_of(path)}: there is no setting {key}"
            model = model.model_fields[part].annotation
        if value:
            load_config(overrides=[f"{key}={value.strip(chr(39)).rstrip('.,;')}"])


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_path_of_the_repository_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for span in [word for code in CODE.findall(text) for word in code.split()]:
        if span.split("/")[0] in FOLDERS and "/" in span:
            assert (ROOT / span).exists(), f"{name_of(path)}: there is no {span}"
        elif re.fullmatch(r"2026-.*\.json", span):
            assert (RESULTS / span).is_file(), f"{name_of(path)}: there is no result {span}"
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / link).exists(), f"{name_of(path)}: the link to {link} is dead"


def test_the_reading_list_and_the_rooms_are_those_of_the_tree() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = re.findall(r"^    ((?:hnm|shards|launch)/\S+\.py) ", text, re.MULTILINE)
    assert len(files) >= 11
    assert [file for file in files if not (ROOT / file).is_file()] == []
    told = set(re.findall(r"^ {4}(?:\w+/)? +(\w+)/ ", text, re.MULTILINE))
    rooms = {path.parent.name for package in ("hnm", "launch", "shards") for path in (ROOT / package).glob("*/__init__.py")}
    assert told == rooms


def words_of_the_program() -> str:
    """Return every text in the program's code, what is filled in left out, one a line."""
    found = []
    for package in ("hnm", "launch", "shards"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def test_the_messages_of_the_troubleshooting_page_are_the_programs() -> None:
    rows = re.findall(r"^\| (`.*?) \| ", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    said = words_of_the_program()
    fragments = [fragment for row in rows for fragment in CODE.findall(row)]
    assert len(fragments) > 60
    assert [fragment for fragment in fragments if fragment not in said] == []


def test_the_citation_has_what_the_format_asks_for() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["type"] == "software"
    assert citation["version"] in (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert f"## [{citation['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
