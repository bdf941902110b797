"""`hnm cohort correct`: what a pathologist set right in QuPath becomes known negatives and positives of a cohort."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shards.claim import claimed
from shards.cohort.cohort import Cohort
from shards.cohort.corrections import CORRECTIONS, Corrections, read_corrections, write_corrections
from shards.errors import InputError
from shards.tiling.corrected import Marked, mark_slide, slide_of_file


def correct(folder: Path, files: Sequence[Path], positive: Sequence[str], negative: Sequence[str], clear: bool) -> int:
    """Mark the patches in corrected regions, and say how many; with `clear` what was marked before is forgotten first.

    Raises:
        InputError: a file belongs to no slide or is none, a class is asked for as both, or another process is at it.
    """
    cohort = Cohort.open(folder)
    cohort.require_pictures("hnm cohort correct")
    if doubled := {name.casefold() for name in positive} & {name.casefold() for name in negative}:
        raise InputError(f"--positive and --negative both name {sorted(doubled)[0]!r}. Leave one of them out")
    if not files and not clear:
        raise InputError("no file of corrections is named. Export them from QuPath as GeoJSON, one file a slide")
    share = float(cohort.info.get("settings", {}).get("truth_share", 0.5))
    marked = [mark_slide(cohort, slide_of_file(cohort, path), path, positive, negative, share) for path in files]
    with claimed(folder / "locks" / "corrections.lock") as claim:
        if claim is None:
            raise InputError(f"{folder / CORRECTIONS}: another process is writing it. Run the same command again")
        known = Corrections.none() if clear else read_corrections(folder, cohort.fingerprint)
        for path, its in zip(files, marked, strict=True):
            first, stop = cohort.patch_bounds[its.slide : its.slide + 2].tolist()
            known = known.replaced(its.known, first, stop, path.name)
        write_corrections(folder, known, cohort.fingerprint)
    for path, its in zip(files, marked, strict=True):
        tell_file(cohort, path, its)
    tell(cohort, known)
    return 0


def tell_file(cohort: Cohort, path: Path, its: Marked) -> None:
    """Print what one file said."""
    positive, negative = (int((its.known.labels == label).sum()) for label in (1, 0))
    name, label = cohort.slide_ids[its.slide], int(cohort.labels()[its.slide]) if "label" in cohort.slides.column_names else -1
    print(f"{path}: slide {name}: {negative:,} patches known to be negative, {positive:,} known to be positive")
    if its.ignored:
        told = ", ".join(f"{count} of class {group!r}" for group, count in its.ignored.items())
        print(f"  ignored: {told}. If they count, name their class: --negative NAME or --positive NAME")
    if positive and label == 0:
        print("  warning: its label is 0, but something on it is positive: correct slides.csv and tile again")


def tell(cohort: Cohort, known: Corrections) -> None:
    """Print what is known in all, and of what it is no use."""
    split = cohort.splits() if "split" in cohort.slides.column_names else np.full(cohort.num_slides, "train")
    counts = Counter(split[cohort.patches.slide[known.ids]].tolist())
    others = sum(count for name, count in counts.items() if name != "train")
    negative = int((known.labels == 0).sum())
    print(f"{cohort.root / CORRECTIONS}: {negative:,} known negatives, {len(known) - negative:,} known positives")
    if others:
        print(f"{others:,} of them are not of training slides and change nothing: no model is trained or chosen by them")
    print("Rounds that are mined from now on know them: hnm train COHORT RUN, also of a run that has rounds left")
