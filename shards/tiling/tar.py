"""WebDataset tars that are the same bytes on every rebuild, with the place of each JPEG in them.

    <slide key>-0000.tar   <slide key>_<x>_<y>.jpg, <slide key>_<x>_<y>.jpg, ...
    <slide key>-0001.tar   the rest, when the size limit was reached

A JPEG is then read by opening the tar at `offset` and reading `nbytes`; no index beside the patch table is needed.
"""

import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from shards.files import whole_file


@dataclass(frozen=True)
class Entry:
    """Where one JPEG lies: the tar's file name, its first byte and its length."""

    tar_name: str
    offset: int
    nbytes: int


def write_tars(folder: Path, slide_key: str, jpegs: Iterable[tuple[int, int, bytes]], max_bytes: int) -> list[Entry]:
    """Write a slide's patches into one or more tars, each whole or absent.

    Args:
        folder: where the tars go.
        slide_key: the slide's dot-free name.
        jpegs: (x_level0, y_level0, JPEG) of each patch; taken one by one, so they needn't fit in memory.
        max_bytes: a tar that would grow beyond this is closed and the next one begun.

    Returns:
        An entry per patch, in order.
    """
    entries: list[Entry] = []
    num_tars = 0
    tar: tarfile.TarFile | None = None
    with ExitStack() as stack:
        for x_level0, y_level0, jpeg in jpegs:
            if tar is None or tar.offset + _bytes_in_tar(jpeg) + _END > max_bytes:
                stack.close()  # the full tar gets its final name
                name = tar_name(slide_key, num_tars)
                tar = stack.enter_context(_new_tar(folder / name))
                num_tars += 1
            entries.append(Entry(name, tar.offset + tarfile.BLOCKSIZE, len(jpeg)))
            _add(tar, f"{slide_key}_{x_level0}_{y_level0}.jpg", jpeg)
    return entries


def tar_name(slide_key: str, number: int) -> str:
    """Return the file name of a slide's tar."""
    return f"{slide_key}-{number:04d}.tar"


def remove_tars(folder: Path, slide_key: str) -> None:
    """Remove a slide's tars, the last first: what a crash leaves is then still a series from 0 on."""
    num_tars = 0
    while (folder / tar_name(slide_key, num_tars)).exists():
        num_tars += 1
    for number in reversed(range(num_tars)):
        (folder / tar_name(slide_key, number)).unlink(missing_ok=True)


_END = 2 * tarfile.BLOCKSIZE  # two zero blocks end an archive


def _bytes_in_tar(jpeg: bytes) -> int:
    num_blocks = -(-len(jpeg) // tarfile.BLOCKSIZE)
    return (1 + num_blocks) * tarfile.BLOCKSIZE  # a header block, then the data padded to whole blocks


@contextmanager
def _new_tar(path: Path) -> Iterator[tarfile.TarFile]:
    # ustar: exactly one header block per member, so `offset` needs no look at the file.
    with whole_file(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        yield tar


def _add(tar: tarfile.TarFile, name: str, jpeg: bytes) -> None:
    """Do what `tar.addfile` does, which makes every header anew and keeps it: a tenth of the time of a patch, and 1 kB."""
    padding = -len(jpeg) % tarfile.BLOCKSIZE
    block = _header(name, len(jpeg)) + jpeg + bytes(padding)
    assert tar.fileobj is not None
    tar.fileobj.write(block)
    tar.offset += len(block)


def _header(name: str, nbytes: int) -> bytes:
    """Return a member's header block (POSIX ustar): name in bytes 0 to 99, size 124 to 135, checksum 148 to 155."""
    encoded = name.encode()
    if len(encoded) > NAME_BYTES:
        return _member(name, nbytes).tobuf(tarfile.USTAR_FORMAT)
    header = bytearray(_TEMPLATE)
    header[:NAME_BYTES] = encoded.ljust(NAME_BYTES, b"\0")
    header[124:136] = b"%011o\0" % nbytes
    header[148:156] = b" " * 8  # that is what the checksum counts of itself
    header[148:155] = b"%06o\0" % sum(header)
    return bytes(header)


def _member(name: str, nbytes: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)  # uid, gid and mtime are 0 and the owner's name is empty
    member.size = nbytes
    member.mode = 0o644
    return member


NAME_BYTES = 100
_TEMPLATE = _member("", 0).tobuf(tarfile.USTAR_FORMAT)
