"""Files that are whole or absent: temporary name, fsync, rename."""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from shards.errors import InputError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def plain_name(name: Any, source: Path) -> str:
    """Return a name that was read from the file `source` and becomes a path: a plain file name, or it is refused.

    Whoever wrote the file could else have us write and read outside of the folder ("../../.bashrc").

    Raises:
        InputError: it is no text, empty, hidden, or has a part that leads elsewhere.
    """
    if not isinstance(name, str) or not name or name.startswith(".") or set(name) & set("/\\:\0"):
        raise InputError(f"{source}: {name!r} is no plain file name: refused. The file is damaged, or was made to do harm")
    return name


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, fsync it and rename it to `path`.

    A crash or an error leaves no file under the final name (and after an error no temporary one either).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # processes in containers of two machines may have one number
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except OSError as error:
        if error.errno in NO_ROOM and error.filename in (None, str(temporary)):  # write(2) does not know the name
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of a full disk in the block name the file `path`, which write(2) does not know."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM and error.filename is None:
            error.filename = str(path)
        raise


def ask_for_space(file: IO[bytes], num_bytes: int) -> None:
    """Reserve `num_bytes` after the file's present end, where the file system can: a full disk is told before the work.

    Raises:
        OSError: there is no room (ENOSPC, EDQUOT, EFBIG); it names the file.
    """
    file.flush()
    if num_bytes <= 0 or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), file.tell(), num_bytes)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise OSError(error.errno, error.strerror, file.name) from None


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network mounts cannot, and need not
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all. NaN is refused: it is not JSON."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_array(path: Path, array: np.ndarray) -> None:
    """Write one array as .npy, whole or not at all."""
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)
