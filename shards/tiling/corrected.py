"""From corrected outlines (QuPath's GeoJSON, or any annotation file) to known patches of one slide."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.cohort.annotations import Annotation, read_annotation, require_on_slide
from shards.cohort.cohort import Cohort
from shards.cohort.corrections import Corrections
from shards.cohort.frame import frame_of_row
from shards.cohort.slides import slide_key
from shards.cohort.truth import truth_of
from shards.errors import InputError
from shards.tiling.mpp import patch_level0_of


@dataclass(frozen=True)
class Marked:
    """What one file says of one slide.

    Attributes:
        slide: its number.
        known: the patches that it judges.
        ignored: outlines of classes that mean neither, by class.
    """

    slide: int
    known: Corrections
    ignored: dict[str, int]


def mark_slide(
    cohort: Cohort, slide: int, path: Path, positive: Sequence[str], negative: Sequence[str], least_share: float
) -> Marked:
    """Return the patches of a slide that lie in corrected outlines.

    A region of a positive class inside one of a negative class stays positive, as islands do in annotations.

    Args:
        path: annotation file, in the frame that the slide was tiled in.
        positive: classes of known positive regions; case is ignored.
        negative: classes of known negative regions; what has another class, or none, is ignored.
        least_share: of a patch that must lie in them.

    Raises:
        InputError: the file is no annotation, or belongs to another slide.
    """
    first, stop = cohort.patch_bounds[slide : slide + 2].tolist()
    row = cohort.slides.slice(slide, 1).to_pylist()[0]
    frame = frame_of_row(row)
    size = patch_level0_of(cohort, slide) if first < stop else 1
    places = cohort.patches.x_level0[first:stop], cohort.patches.y_level0[first:stop], size, least_share
    inside: list[np.ndarray] = []
    read: list[Annotation] = []
    for wanted, cut_out in ((negative, []), (positive, negative)):
        read.append(frame.to_level0(read_annotation(path, cut_out, wanted, skip_bad_outlines=False)))
        require_on_slide(read[-1], path, row["width"], row["height"])
        inside.append(truth_of(read[-1], *places) == 1)
    labels = np.where(inside[1], 1, np.where(inside[0], 0, -1)).astype(np.int8)
    own = np.flatnonzero(labels >= 0)
    roles: dict[str, set[str]] = {}
    for group, tally in (item for its in read for item in its.groups.items()):
        roles.setdefault(group, set()).add(tally.role)
    counts = Counter({group: tally.num_outlines + tally.num_points for group, tally in read[0].groups.items()})
    ignored = {group: counts[group] for group, its in roles.items() if its == {"ignored"}}
    return Marked(slide, Corrections(own + first, labels[own], np.full(len(own), path.name, object)), ignored)


def slide_of_file(cohort: Cohort, path: Path) -> int:
    """Return the number of the slide that a file is named after: its name, its key, or its picture's, with endings or not.

    Raises:
        InputError: there is no such slide, or there are several.
    """
    names: dict[str, set[int]] = {}
    for number, (slide_id, picture) in enumerate(
        zip(cohort.slides["slide_id"].to_pylist(), cohort.slides["path"].to_pylist(), strict=True)
    ):
        for name in (slide_id, slide_key(slide_id), Path(picture).name, Path(picture).stem):
            names.setdefault(name.casefold(), set()).add(number)
    stem = path.name
    while (stem := Path(stem).stem if Path(stem).suffix else "") != "":
        found = names.get(stem.casefold(), set())
        if len(found) == 1:
            return found.pop()
        if found:
            raise InputError(f"{path}: {len(found)} slides have this name. Name the file after one slide_id of the cohort")
    some = ", ".join(map(str, cohort.slide_ids[:3])) + (", ..." if cohort.num_slides > 3 else "")
    raise InputError(f"{path}: no slide of {cohort.root} has this name. Name the file after its slide_id, such as {some}")
