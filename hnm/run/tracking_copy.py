"""MLflow's calls that cannot hang a training, and its database on the node's own disk.

    run/mlflow.db ──copied──▶ $TMPDIR/hnm-mlflow-*/mlflow.db ◀── MLflow, with SQLite's locks
    run/mlflow.db ◀──whole, by rename─┘   now and then, and at the end

SQLite locks its file. On many shared file systems such a lock is none, or the call never comes back; a copy on the node's own
disk is locked where locks work, and the file that other nodes see is only ever copied.
"""

import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from shards.files import whole_file


class Aside:
    """Runs one action at a time in a thread of its own, and does not wait for it longer than it is told to."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def run(self, action: Callable[[], None], wait_s: float) -> None:
        """Run `action` and raise what it raises.

        Raises:
            TimeoutError: it, or the one before it, is still at work; it goes on, and nothing waits for it.
        """
        problems: list[Exception] = []

        def run() -> None:
            try:
                action()
            except Exception as error:  # raised below, if anybody still waits
                problems.append(error)

        if self.is_busy:
            raise TimeoutError("no answer yet to what was asked before")
        self._thread = threading.Thread(target=run, daemon=True, name="tracking")
        self._thread.start()
        self._thread.join(wait_s)
        if self._thread.is_alive():
            raise TimeoutError(f"no answer within {wait_s:.0f} s")
        if problems:
            raise problems[0]

    @property
    def is_busy(self) -> bool:
        """Is an action at work that nothing waits for any more?"""
        return self._thread is not None and self._thread.is_alive()


class DatabaseCopy:
    """A copy, on the node's own disk, of the database in a folder that other nodes see; made when it is first asked for.

    One process at a time may have one of the same folder: the second to bring it home would undo what the first has done.

    Attributes:
        home: the database that the others see.
    """

    def __init__(self, folder: Path) -> None:
        self.home = folder / "mlflow.db"
        self._disk: tempfile.TemporaryDirectory[str] | None = None

    def open(self) -> Path:
        """Return the copy's path."""
        if self._disk is None:
            self._disk = tempfile.TemporaryDirectory(prefix="hnm-mlflow-", ignore_cleanup_errors=True)
            if self.home.is_file():
                shutil.copyfile(self.home, self._path(self._disk))
        return self._path(self._disk)

    def bring_home(self) -> None:
        """Replace the database that the others see by the copy, whole or not at all."""
        with whole_file(self.home) as temporary:
            shutil.copyfile(self.open(), temporary)

    def close(self) -> None:
        """Remove the copy."""
        if self._disk is not None:
            self._disk.cleanup()
            self._disk = None

    def _path(self, disk: "tempfile.TemporaryDirectory[str]") -> Path:
        return Path(disk.name) / self.home.name
