"""What README and docs say, taken apart: blocks to run, commands, settings and paths."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "slurm" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = re.compile(r"<!-- run -->\n```bash\n(.*?)\n```", re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
PROGRAM = re.compile(r"(?:^|[\s(])(?:hnm|python -m launch\.cli|torchrun .*? -m launch\.cli) ([a-z].*)")


def name_of(path: Path) -> str:
    """Return a page's path from the root."""
    return str(path.relative_to(ROOT))


def code_lines(text: str) -> Iterator[str]:
    """Yield each line of shell in fenced or indented code, and each span of code; a drawing's line has an arrow."""
    fence: str | None = None
    for line in text.splitlines():
        if line.startswith("```"):
            fence = line[3:] if fence is None else None
        elif fence == "bash" or (fence is None and line.startswith("    ") and "──" not in line):
            yield line.strip()
        elif fence is None:
            yield from (span.strip() for span in CODE.findall(line))


def commands_of(text: str) -> list[list[str]]:
    """Return the words after `hnm` of every command in code; several may stand in one line, three spaces apart."""
    found = []
    for line in code_lines(text):
        for part in re.split(r"\s{3,}|&&|;", re.sub(r"(^|\s)# .*", "", line)):
            match = PROGRAM.search(part)
            if match and not line.startswith("pip "):
                found.append(shlex.split(match[1]))
    return found


def blocks_to_run(path: Path) -> list[list[str]]:
    """Return the commands, as words, of the blocks of a page that stand under `<!-- run -->`."""
    text = "\n".join(RUN.findall(path.read_text(encoding="utf-8")))
    return [shlex.split(line) for line in text.splitlines()]
