"""Which series a DICOM file belongs to: the levels of one slide are files of one series.

    128 bytes, "DICM", group 2 (explicit lengths), then elements in ascending order: tag, kind, length, value ...

Only the elements before (0020,000E) are walked, a few kB; sequences among them hold other series' ids, so a search for
the tag's bytes would find the wrong one.
"""

import struct
from pathlib import Path
from typing import BinaryIO

SERIES_INSTANCE_UID = (0x0020, 0x000E)
TRANSFER_SYNTAX_UID = (0x0002, 0x0010)
IMPLICIT_VR, DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
LONG_KINDS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
MAX_DEPTH = 16
Element = tuple[tuple[int, int], int]  # tag, length of the value


def series_of(path: Path) -> str | None:
    """Return a DICOM file's SeriesInstanceUID; None: it is none, or tells none, or cannot be read."""
    try:
        with open(path, "rb") as file:
            if file.read(132)[128:] != b"DICM":
                return None
            return _series_in(file)
    except (OSError, struct.error, ValueError, RecursionError):
        return None


def _series_in(file: BinaryIO) -> str | None:
    is_implicit = False
    while True:
        start = file.tell()
        group = struct.unpack("<H", file.read(2))[0]
        file.seek(start)
        tag, length = _next(file, is_implicit and group != 2)
        if tag == SERIES_INSTANCE_UID:
            return _text(file, length) or None
        if tag > SERIES_INSTANCE_UID:
            return None
        if tag == TRANSFER_SYNTAX_UID:
            syntax = _text(file, length)
            if syntax in (DEFLATED, BIG_ENDIAN):  # the first is for no images, the second is retired
                return None
            is_implicit = syntax == IMPLICIT_VR
        else:
            _skip(file, length, is_implicit, 0)


def _next(file: BinaryIO, is_implicit: bool) -> Element:
    tag = struct.unpack("<HH", file.read(4))
    if is_implicit or tag[0] == 0xFFFE:
        return tag, struct.unpack("<I", file.read(4))[0]
    kind = file.read(2)
    if kind in LONG_KINDS:
        return tag, struct.unpack("<2xI", file.read(6))[0]
    return tag, struct.unpack("<H", file.read(2))[0]


def _skip(file: BinaryIO, length: int, is_implicit: bool, depth: int) -> None:
    """Go past a value; one of undefined length ends with a tag of its own, and may hold others."""
    if length != UNDEFINED:
        file.seek(length, 1)
        return
    if depth > MAX_DEPTH:
        raise ValueError
    while True:
        tag, inner = _next(file, is_implicit)
        if tag in (SEQUENCE_END, ITEM_END):
            return
        _skip(file, inner, is_implicit, depth + 1)


def _text(file: BinaryIO, length: int) -> str:
    if length > 64:  # a UID's most
        raise ValueError
    return file.read(length).decode("ascii").rstrip("\0 ")
