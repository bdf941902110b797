"""The end of a run whose ranks were ended before they could tell it: the launcher, which outlives them, does.

    rank 0 ──"I work in run/"──▶ a note beside the rendezvous ──▶ launcher: last reports, state.json, MLflow

NCCL ends a process whose peer is dead by SIGABRT, the kernel one without memory by SIGKILL: neither says a word.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from launch.process.said import meeting_folder

NOTE = "run"
LOST = "failed (another rank was gone or did not answer)"  # what rank 0 itself knows of another rank's death


def tell_launcher(run: Path) -> None:
    """Let our launcher, if it is one, know in which run rank 0 works. Call it on rank 0 only."""
    if (folder := meeting_folder()) is not None:
        (folder / NOTE).write_text(str(run.resolve()), encoding="utf-8")


def note_ending(folder: Path, how: str) -> None:
    """Tell how a run ended whose rank 0 has not told it itself.

    Args:
        folder: where the ranks have met.
        how: as in state.json, such as "failed (rank 1 was killed by SIGKILL)".
    """
    if not (folder / NOTE).is_file():
        return
    run = Path((folder / NOTE).read_text(encoding="utf-8"))
    try:
        state = json.loads((run / "state.json").read_text(encoding="utf-8"))
        attempt = state["attempts"][-1]
        if attempt["ended"] is None:
            _end(run, how)
        elif attempt["how"] == LOST:
            from shards.files import write_json

            attempt["how"] = how  # more than rank 0 knew
            write_json(run / "state.json", state)
    except (OSError, ValueError, LookupError) as error:
        print(f"{run / 'state.json'}: cannot note how the run ended ({error})", file=sys.stderr)


def _end(run: Path, how: str) -> None:
    from hnm.config import read_config
    from hnm.run.heartbeat import last_words, read_beats
    from hnm.run.tracking import Tracker
    from hnm.run.tracking_run import files_of_run
    from launch.process.run_directory import attempt_tags, end_attempt

    beats = read_beats(run / "log")
    print(f"last reports: {last_words(beats, time.time())}", file=sys.stderr, flush=True)
    end_attempt(run, how)
    config = read_config(run / "config.yaml")
    params: dict[str, Any] = config.model_dump(mode="json")
    status = "KILLED" if how.startswith("stopped") else "FAILED"
    Tracker(run, config.tracking, params).finish(status, files_of_run(run), attempt_tags(run))
