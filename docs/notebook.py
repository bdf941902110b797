"""The page docs/python.md as a notebook: `python docs/notebook.py` writes docs/examples/python.ipynb anew.

The tests run the page's code, and compare the notebook with the page: so the notebook's code runs, too.
"""

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE, NOTEBOOK = HERE / "python.md", HERE / "examples" / "python.ipynb"
CELL = re.compile(r"<!-- python -->\n```python\n(.*?)\n```\n?", re.DOTALL)
LINK = re.compile(r"\[([^\]]+)\]\([^)]+\.md[^)]*\)|\{download\}`([^<]+?) *<[^>]+>`")


def notebook_of(page: str) -> dict[str, Any]:
    """Return a notebook (nbformat 4.5) of a page: its code in cells, the text between as Markdown; links are words."""
    cells: list[dict[str, Any]] = []
    for number, part in enumerate(CELL.split(page)):  # text, code, text, ...
        source = part.strip() if number % 2 else LINK.sub(lambda found: found[1] or found[2], part).strip()
        kind: dict[str, Any] = {"cell_type": "markdown"}
        if number % 2:
            kind = {"cell_type": "code", "execution_count": None, "outputs": []}
        if source:
            cells.append({**kind, "id": f"cell-{number}", "metadata": {}, "source": source.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def text_of(page: str) -> str:
    """Return the file of the notebook."""
    return json.dumps(notebook_of(page), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(text_of(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
