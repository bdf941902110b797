"""What a slide's file is, whatever it is called and wherever it lies: a hash of its size and of some of its bytes."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shards.cohort.same_slides import beside

BLOCK_BYTES = 1 << 16
WHOLE_BYTES = 16 * BLOCK_BYTES  # a file up to that size is read whole, of a larger one 16 blocks
NUM_BLOCKS = WHOLE_BYTES // BLOCK_BYTES
WITH_FOLDER = (".mrxs", ".vsi")  # whose pixels lie beside the file
NUM_THREADS = 8  # at once: a network drive answers slowly, not seldom


def content_of(path: Path) -> str:
    """Return a hash of a file that its copies share, under any name; "" if it cannot be read.

    16 blocks are read, at equal distances from its first byte to its last: uncompressed scans may begin and end with white. Of
    formats whose pixels lie in a folder beside the file, the names and sizes there count, too.
    """
    try:
        size = os.stat(path).st_size
        files = beside(path) if path.suffix.casefold() in WITH_FOLDER else ()
        digest = hashlib.sha256(f"{size} {files}".encode())
        with open(path, "rb") as file:
            if size <= WHOLE_BYTES:
                digest.update(file.read())
            else:
                for number in range(NUM_BLOCKS):
                    file.seek(number * (size - BLOCK_BYTES) // (NUM_BLOCKS - 1))
                    digest.update(file.read(BLOCK_BYTES))
    except (OSError, ValueError):  # whoever opens the slide says so
        return ""
    return digest.hexdigest()[:32]


def contents_of(paths: Sequence[Path]) -> list[str]:
    """Return `content_of` each file, in order."""
    with ThreadPoolExecutor(NUM_THREADS, "content") as pool:
        return list(pool.map(content_of, paths))
