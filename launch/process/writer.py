"""One process at a time writes a folder of predictions or an exported model; runs and cross-validations have their own locks.

    FOLDER/.claim.json   its owner; gone when the work is done (see shards/claim.py)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hnm.run.heartbeat import BEAT_EVERY_S
from launch.process.run_directory import WAIT_FOR_CLAIM_S, alone_in
from shards.claim import touched

CLAIM_FILE = Path(".claim.json")


@contextmanager
def only_writer(folder: Path, wait_s: float = WAIT_FOR_CLAIM_S) -> Iterator[None]:
    """Hold a folder during the block, made if it is not there; wait for another process that writes it, but not for long.

    Raises:
        InputError: another process still writes there after `wait_s` seconds.
    """
    with alone_in(folder, wait_s, CLAIM_FILE) as claim, touched(claim, BEAT_EVERY_S):
        yield
