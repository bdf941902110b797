"""The file that a cell of a table means: ~ and $VARIABLES filled in, and found in either form of Unicode.

    "~/slides/é.svs" ──▶ /home/me/slides/é.svs ──▶ the name as it stands on the disk, composed or decomposed
"""

import errno
import os
import re
import unicodedata
from pathlib import Path

from shards.cohort.cohort_table import Row

VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def file_of(row: Row, column: str) -> Path:
    """Return the file of a cell, absolute; relative paths are relative to the table's folder. It may be missing.

    Raises:
        InputError: the cell holds a character that no file name has, a variable that is not set, or too long a name.
    """
    cell, folder = row.cells[column], row.file.parent
    if "\0" in cell:
        raise row.error(column, "a file's name cannot hold a null character. Correct the cell")
    try:
        as_written = _on_disk(folder / cell)
        if as_written is not None:
            return as_written.absolute()
        path = folder / os.path.expanduser(_filled_in(row, column))  # an absolute path in the cell wins
        return (_on_disk(path) or path).absolute()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise row.error(column, "no file has so long a name. Correct the cell") from None
        return (folder / cell).absolute()  # a folder that may not be entered: whoever opens the slide says so


def _filled_in(row: Row, column: str) -> str:
    cell = row.cells[column]
    for match in VARIABLE.finditer(cell):
        if (match[1] or match[2]) not in os.environ:
            raise row.error(
                column, f"there is no such file, and the variable {match[0]} is not set. Set it, or write the path out"
            )
    return VARIABLE.sub(lambda match: os.environ[match[1] or match[2]], cell)


def _on_disk(path: Path) -> Path | None:
    """Return the file under the name that it has on disk, None if there is none.

    Raises:
        OSError: the name is too long, or a folder may not be entered.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None if str(path).isascii() else _in_another_form(path)
    return path


def _in_another_form(path: Path) -> Path | None:
    """Find a path name by name: one part may be composed (NFC), the next decomposed (NFD)."""
    found = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        if not (found / part).exists():
            same = [name for name in _names_in(found) if _composed(name) == _composed(part)]
            if not same:
                return None
            part = same[0]
        found = found / part
    return found


def _names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
