"""The house keeps its shape: small files and functions, one reader of the ranks' environment, every room told and packaged.

Which room may use which is import-linter's to check (`lint-imports`, contracts in setup.cfg).
"""

import ast
import configparser
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 60
SOURCES = [path for package in ("hnm", "launch", "shards") for path in sorted((ROOT / package).rglob("*.py"))]
ALL = SOURCES + [path for folder in ("benchmarks", "tests", "docs") for path in sorted((ROOT / folder).rglob("*.py"))]
OF_RANKS = re.compile(r"RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|SLURM_\w+|TORCHELASTIC_\w+")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_files_and_functions_are_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, node.name


def reads_of_ranks(text: str) -> list[str]:
    """Return the variables of ranks and SLURM that the code reads: x["RANK"], x.get("RANK"), "RANK" in x, getenv("RANK")."""

    def names(nodes: list[ast.expr]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and OF_RANKS.fullmatch(node.value):
                yield node.value

    found: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            found += names([node.slice])
        elif isinstance(node, ast.Compare) and any(isinstance(op, ast.In | ast.NotIn) for op in node.ops):
            found += names([node.left])
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("get", "getenv", "pop"):
            found += names(node.args[:1])
    return found


def test_the_search_for_reads_finds_each_way_of_reading() -> None:
    ways = ['e["RANK"]', 'e.get("SLURM_JOB_ID", 0)', '"WORLD_SIZE" in e', 'os.getenv("LOCAL_RANK")', 'e.pop("RANK")']
    assert [len(reads_of_ranks(way)) for way in ways] == [1] * len(ways)
    assert reads_of_ranks('e["RANK"] = "0"; {**e, "RANK": "1"}; e.get("HOME")') == []


def test_one_file_reads_what_the_launcher_says_of_ranks() -> None:
    readers = {name_of(path): found for path in SOURCES if (found := reads_of_ranks(path.read_text(encoding="utf-8")))}
    assert set(readers) == {"launch/process/distributed.py"}


def test_every_room_has_a_sentence_and_is_packaged() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    packaged = set(setup["options"]["packages"].split())
    rooms = {path.parent for path in SOURCES}
    assert {".".join(room.relative_to(ROOT).parts) for room in rooms} == packaged - {"hnm.configs"}
    for room in rooms:
        docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
        assert docstring, f"{room}/__init__.py says nothing of the room"
