"""What the ranks could not read, told together: broken patches by slide, kept in the run's folder.

    reader.broken of every rank ──ids──▶ rank 0: FOLDER/broken_patches.npy (b,) int64 ──▶ mining.json, events.jsonl, a warning

A resumed run starts with fresh readers; what earlier processes met is in the file.
"""

from pathlib import Path
from typing import Any

import numpy as np

from hnm.session import Session
from hnm.study import Study
from launch.distributed import gather_any_to_main
from shards.files import write_array


def note_broken(folder: Path, session: Session) -> dict[str, Any]:
    """Add what the ranks' readers could not read to folder/broken_patches.npy. Every rank must call it.

    Returns:
        On rank 0 the counts of `count_broken`; elsewhere nothing.
    """
    gathered = gather_any_to_main(session.reader.broken.ids, session.world)
    if gathered is None:
        return {}
    path = folder / "broken_patches.npy"
    known = np.load(path) if path.is_file() else np.empty(0, np.int64)
    ids = np.union1d(known, gathered)
    if len(ids) > len(known):
        write_array(path, ids)
    return count_broken(ids, session.study)


def count_broken(ids: np.ndarray, study: Study) -> dict[str, Any]:
    """Return how many patches are broken, their share of the cohort, and how many each slide has.

    Args:
        ids: (b,) int64 patch ids.
        study: the cohort.
    """
    slides, counts = np.unique(study.cohort.patches.slide[ids], return_counts=True)
    by_slide = {str(study.cohort.slide_ids[slide]): int(count) for slide, count in zip(slides, counts, strict=True)}
    return {"num": len(ids), "share": len(ids) / study.cohort.num_patches, "by_slide": by_slide}


def warn_of_broken(folder: Path, session: Session) -> None:
    """Say at the end of a command how many patches could not be read. Every rank must call it."""
    broken = note_broken(folder, session)
    if broken and broken["num"]:
        root = session.study.cohort.root
        session.journal.event("broken_patches", **broken)
        session.journal.say(
            f"warning: {broken['num']:,} patches ({broken['share']:.2%}) of {len(broken['by_slide'])} slides could not be "
            f"read; other patches stood in for them (reader.broken=skip). Their ids: {folder / 'broken_patches.npy'}. "
            f"Find out why: hnm check {root} --deep"
        )
