"""What the ranks could not read, told together: broken patches by slide, kept in the run's folder.

    reader.broken of every rank ──ids──▶ rank 0: FOLDER/broken_patches.npy (b,) int64
                                                 ──▶ mining.json, metrics.json, events.jsonl, warnings

A resumed run starts with fresh readers; what earlier processes met is in the file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hnm.engine.ranks import gather_any_to_main
from hnm.run.session import Session
from hnm.run.study import Study
from shards.files import write_array

BROKEN_FILE = "broken_patches.npy"
MAX_NAMED = 8


def note_broken(folder: Path, session: Session) -> dict[str, Any]:
    """Add what the ranks' readers could not read to folder/broken_patches.npy. Every rank must call it.

    Returns:
        On rank 0 the counts of `count_broken`; elsewhere nothing.
    """
    gathered = gather_any_to_main(session.reader.broken.ids, session.world)
    if gathered is None:
        return {}
    known = read_broken(folder)
    ids = np.union1d(known, gathered)
    if len(ids) > len(known):
        write_array(folder / BROKEN_FILE, ids)
    return count_broken(ids, session.study)


def read_broken(folder: Path) -> np.ndarray:
    """Return (b,) int64, ascending: the ids of the patches that a run could not read so far, in any of its phases."""
    path = folder / BROKEN_FILE
    return np.asarray(np.load(path)) if path.is_file() else np.empty(0, np.int64)


def count_broken(ids: np.ndarray, study: Study, among: np.ndarray | None = None) -> dict[str, Any]:
    """Return how many patches are broken, their share, and how many each slide has.

    Args:
        ids: (b,) int64 patch ids.
        study: the cohort.
        among: (s,) slide numbers, of which alone is told, and of whose patches the share is; None: the whole cohort.
    """
    among = np.arange(study.cohort.num_slides) if among is None else among
    slides, counts = np.unique(study.cohort.patches.slide[ids], return_counts=True)
    told = np.isin(slides, among)
    by_slide = {
        str(study.cohort.slide_ids[slide]): int(count) for slide, count in zip(slides[told], counts[told], strict=True)
    }
    num = sum(by_slide.values())
    return {"num": num, "share": num / max(1, study.num_patches_of(among)), "by_slide": by_slide}


def explain_broken(ids: np.ndarray, study: Study, among: np.ndarray, what: str) -> list[str]:
    """Return what broken patches mean for some slides, in words for people, the gravest first; nothing, if none is broken.

    Args:
        ids: (b,) int64 ids of all broken patches.
        study: the cohort.
        among: (s,) slide numbers.
        what: these slides in a word, such as "test".
    """
    broken = count_broken(ids, study, among)
    if not broken["num"]:
        return []
    by_slide = broken["by_slide"]
    size_of = dict(zip(study.cohort.slide_ids, study.cohort.patches_per_slide, strict=True))
    worst = sorted(by_slide, key=lambda name: -by_slide[name])
    lost = [name for name in worst if by_slide[name] == size_of[name]]
    told = [
        f"Of the {what} patches {broken['num']:,} ({broken['share']:.2%}) could not be read; others stood in for them, and the "
        f"scores of these slides rest on less: {named([f'{name} ({by_slide[name]:,} of {size_of[name]:,})' for name in worst])}."
    ]
    if lost:
        told.insert(
            0,
            f"Nothing of {len(lost)} {what} slide(s) could be read; a patch of another {what} slide of the same label stood in "
            f"for all of theirs, and their scores say nothing: {named(lost)}.",
        )
    return told


def named(names: Sequence[str] | np.ndarray) -> str:
    """Return the first names as a list in words, and how many more there are."""
    shown = ", ".join(str(name) for name in names[:MAX_NAMED])
    return f"{shown} and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else shown


def warn_of_broken(folder: Path, session: Session) -> None:
    """Say at the end of a command how many patches could not be read. Every rank must call it."""
    broken = note_broken(folder, session)
    if broken and broken["num"]:
        root = session.study.cohort.root
        session.journal.event("broken_patches", **broken)
        session.journal.say(
            f"warning: {broken['num']:,} patches ({broken['share']:.2%}) of {len(broken['by_slide'])} slides could not be "
            f"read; other patches stood in for them (reader.broken=skip). Their ids: {folder / BROKEN_FILE}. "
            f"Find out why: hnm check {root} --deep"
        )
