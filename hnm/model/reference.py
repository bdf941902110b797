"""What an export records of the slides that its model was made with, so that drift can be seen elsewhere; no slide is named.

validation slides' scores, by class            ─┐
colours of training and validation slides       ├──▶ model.json, "reference" ──▶ hnm validate (hnm/evidence/drift.py)
  (at most 150 slides, 32 patches of each)     ─┘
"""

from typing import Any

import numpy as np

from hnm.report.record import RunRecord
from hnm.statistics.colour import COLOURS, ColourCounts
from hnm.statistics.drift import evenly_chosen
from shards.errors import InputError, UnreadablePatchError
from shards.reading.reader import PatchReader

MOST_VALUES = 1000  # scores of a class, sorted: more would say the same
MOST_SLIDES, PATCHES_PER_SLIDE = 150, 32


def reference_of(record: RunRecord) -> dict[str, Any]:
    """Return the sorted values of a finished run; of patches that cannot be read, why there are none."""
    return {"scores": _scores(record), "colours": _colours(record)}


def _scores(record: RunRecord) -> dict[str, Any]:
    study = record.study
    slides = study.validation[np.isfinite(record.by_slide[study.validation])]
    labels, patients = study.labels[slides], record.patients[slides]
    kinds = {"negative": labels == 0, "positive": labels == 1}
    return {
        **{name: evenly_chosen(record.by_slide[slides[rows]], MOST_VALUES) for name, rows in kinds.items()},
        "patients": {name: len(np.unique(patients[rows])) for name, rows in kinds.items()},
        "positive_share": float(np.mean(study.labels[study.embedded_slides] == 1)),
    }


def _colours(record: RunRecord) -> dict[str, Any]:
    study = record.study
    slides = study.embedded_slides
    slides = slides[np.unique(np.linspace(0, len(slides) - 1, min(MOST_SLIDES, len(slides))).round().astype(np.int64))]
    found, read, why_not = [], [], ""
    with PatchReader(study.cohort, record.config.reader, study.slide_groups) as reader:
        for slide in slides.tolist():
            first, stop = study.cohort.patch_bounds[slide : slide + 2]
            ids = np.unique(np.linspace(first, stop - 1, min(PATCHES_PER_SLIDE, stop - first)).round().astype(np.int64))
            counts = ColourCounts()
            try:
                counts.add(reader.read(ids).permute(0, 2, 3, 1).numpy())
            except (InputError, UnreadablePatchError, OSError) as error:
                why_not = f"when it was exported, patches could not be read ({type(error).__name__})"  # no path of this machine
                continue
            found.append(counts.figures())
            read.append(slide)
    values = {name: sorted(figures[name] for figures in found) for name in COLOURS} if found else {}
    return {
        "values": values,
        "slides": len(found),
        "unreadable": len(slides) - len(found),
        "patients": len(np.unique(record.patients[read])) if read else 0,
        "patches_per_slide": PATCHES_PER_SLIDE,
        "why_not": "" if found else why_not,
    }
