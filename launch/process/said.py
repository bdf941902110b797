"""Errors on standard error: every rank's, with its rank, unless rank 0 has said the same text.

    rank 0: prints ──▶ a note for the ranks of its node (beside the rendezvous, or in the temporary folder)
                   ──▶ its last heartbeat in run/log, for the ranks of other nodes
    rank r: waits a moment for either to hold its own text ──▶ silent, or prints "error (rank r): ..."
"""

import hashlib
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from launch.process.distributed import RankLostError, num_starts, rank_of_process, size_of_process
from shards.claim import process
from shards.secrets import scrub

SAID_WITHIN_S = 3.0  # ranks that fail by the same cause do so at about the same time
POLL_S = 0.1


def in_words(error: BaseException) -> str:
    """Return an error as people are told it: a message of ours as it is, any other with its type, its first line only."""
    from shards.errors import InputError

    text = scrub(str(error).strip())
    if isinstance(error, InputError | FloatingPointError) and text:
        return text
    return f"{type(error).__name__}: {(text or 'no message').splitlines()[0][:300]}"


def keep_log(error: BaseException, folder: Path) -> None:
    """Let `say_error` know in which folder rank 0's last heartbeat is."""
    error.__dict__["log_folder"] = folder


def say_error(error: BaseException, text: str) -> None:
    """Print the error's text, without secrets, with this process's rank, unless rank 0 has said the same."""
    text = scrub(text)
    rank = rank_of_process()
    if rank == 0:
        print(f"error: {text}", file=sys.stderr, flush=True)
        if size_of_process() > 1:
            _leave_note(text)
    elif isinstance(error, RankLostError) or not _was_said(text, error.__dict__.get("log_folder")):
        print(f"error (rank {rank}): {text}", file=sys.stderr, flush=True)


def meeting_folder() -> Path | None:
    """Return the folder in which the ranks of our own launcher meet; None under another launcher."""
    uri = os.environ.get("HNM_RENDEZVOUS")
    return None if uri is None else Path(url2pathname(urlparse(uri).path)).parent


def _was_said(text: str, log_folder: Path | None) -> bool:
    """Wait a moment for rank 0 to say this text."""
    note, deadline = _note(text), time.monotonic() + SAID_WITHIN_S
    while True:
        if note is not None and note.exists() and note.stat().st_uid == os.getuid():
            return True
        if log_folder is not None and _error_of_main(log_folder) == text:
            return True
        if note is None or time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)


def _error_of_main(log_folder: Path) -> str | None:
    from hnm.run.heartbeat import errors_of, read_beats

    return errors_of(read_beats(log_folder)).get(0)


def _leave_note(text: str) -> None:
    if (note := _note(text)) is not None:
        with suppress(OSError):
            os.close(os.open(note, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # nobody's link is followed


def _note(text: str) -> Path | None:
    """Return the empty file that stands for a text that rank 0 has said, the same for all ranks of a node and start.

    They are children of one process: torchrun, SLURM's step, mpirun or ours. None: their parent is not known (a container).
    """
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    if (folder := meeting_folder()) is not None:
        return folder / f"said-{digest}"
    parent = process(os.getppid())
    if parent.pid <= 1 or not parent.started:
        return None
    began = parent.started.split()[-1]
    return Path(tempfile.gettempdir()) / f"hnm-said-{os.getuid()}-{parent.pid}-{began}-{num_starts()}-{digest}"
