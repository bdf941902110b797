"""The FROC of a run's test slides: what the peaks of each slide's patch scores meet.

    patch scores of a slide ──local maxima──▶ detections ─┐
    annotation, or else the patches' truth ──▶ lesions ───┴─▶ Hits of the slide ──all test slides──▶ FROC
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hnm.run.study import Study
from hnm.statistics.bootstrap import interval_of_draws
from hnm.statistics.froc import Counts, Hits, Lesions, count_hits, froc_figures, hits_of, no_lesions
from hnm.statistics.lesions import lesions_of_area, lesions_of_patches, local_maxima
from shards.cohort.annotations import read_annotation
from shards.cohort.frame import frame_of_row
from shards.tiling.mpp import patch_level0_of


def froc_part(by_patch: np.ndarray, study: Study, seed: int) -> dict[str, Any] | None:
    """Return the FROC of the test slides; None where the lesions of no positive slide are known.

    Where all lesions are left out as isolated tumour cells there is no curve, and the score is None.

    Args:
        by_patch: (N,) patch scores.
        study: the cohort and its parts.
        seed: of the bootstrap.

    Returns:
        The score (mean sensitivity) with its bootstrap interval by patient, the sensitivity at each rate, the curve, and
        how many slides were left out (positive ones whose lesions are unknown), and how many lesions (isolated tumour cells).
    """
    known, sources = known_lesions(study)
    counted = [lesions.counted for lesions in known.values()]
    if not any(map(len, counted)):
        return None
    slides = np.array(list(known))
    told = {
        "num_slides": len(slides),
        "num_slides_left_out": len(study.judged) - len(slides),
        "num_isolated_left_out": sum(int((~its).sum()) for its in counted),
        "lesions_from": sources,
    }
    if not any(its.any() for its in counted):
        return {"score": None, "interval": interval_of_draws([], 0)._asdict(), "num_lesions": 0, **told}
    return {**froc_figures(count_detections(study, by_patch, known), study.drawn_by(slides), seed), **told}


def known_lesions(study: Study) -> tuple[dict[int, Lesions], list[str]]:
    """Return the lesions of the test slides where they are known, by slide, and where they come from."""
    if not study.cohort.has_places:  # features of another tool: a hit is at a place
        return {}, []
    found = [(slide, *lesions_of_slide(study, slide)) for slide in study.judged.tolist()]
    known = {slide: lesions for slide, lesions, _ in found if lesions is not None}
    return known, sorted({source for _, _, source in found if source})


def count_detections(study: Study, by_patch: np.ndarray, lesions: Mapping[int, Lesions]) -> Counts:
    """Return what the patch scores (N,) of some slides, in the order of `lesions`, meet."""
    return count_hits([hits_of_slide(study, slide, by_patch, its) for slide, its in lesions.items()])


def lesions_of_slide(study: Study, slide: int) -> tuple[Lesions | None, str]:
    """Return a slide's lesions, None if unknown, and where they come from: "annotations", "patches" or "" (it has none).

    An annotation counts where slides.parquet names its file and the file is there; else connected positive patches do.
    """
    if study.labels[slide] == 0:
        return no_lesions(), ""
    cohort, settings = study.cohort, study.cohort.info.get("settings", {})
    row = cohort.slides.slice(slide, 1).to_pylist()[0]
    annotation = Path(row.get("annotation") or "")
    if annotation.is_file():
        groups = settings.get("negative_groups", []), settings.get("positive_groups")
        area = frame_of_row(row).to_level0(read_annotation(annotation, *groups, skip_bad_outlines=True)).area
        if not area.is_empty:
            return lesions_of_area(area, row["source_mpp"]), "annotations"
    own, patches = _patches(study, slide), cohort.patches
    if not np.any(patches.truth[own] == 1):
        return None, ""
    places = patches.x_level0[own], patches.y_level0[own]
    return lesions_of_patches(*places, patches.truth[own], patch_side(study, slide)), "patches"


def hits_of_slide(study: Study, slide: int, by_patch: np.ndarray, lesions: Lesions) -> Hits:
    """Return what the local maxima of a slide's patch scores, at the patches' centres, meet."""
    own = _patches(study, slide)
    if own.start == own.stop:  # its lesions are missed, all of them
        nothing = np.empty(0)
        return hits_of(nothing, nothing, nothing, lesions)
    side = patch_side(study, slide)
    x, y, scores = study.cohort.patches.x_level0[own], study.cohort.patches.y_level0[own], by_patch[own]
    peaks = local_maxima(x, y, scores, side)
    return hits_of(x[peaks] + side / 2, y[peaks] + side / 2, scores[peaks], lesions)


def patch_side(study: Study, slide: int) -> int:
    """Return the side of a slide's patches, level-0 pixels."""
    return patch_level0_of(study.cohort, slide)


def _patches(study: Study, slide: int) -> slice:
    return slice(*study.cohort.patch_bounds[slide : slide + 2].tolist())
