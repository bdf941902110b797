"""What a tiling did, in numbers: what `hnm tile` prints and its page shows."""

from dataclasses import dataclass, field

from shards.cohort.split_counts import SplitCount
from shards.tiling.annotated import AnnotationSummary
from shards.tiling.outliers import Outlier


@dataclass(frozen=True)
class TileSummary:
    """What `hnm tile` did, in numbers.

    Attributes:
        num_slides: in the table; the sum of the next three.
        num_done: slides with patches.
        num_empty: slides without.
        num_failed: slides that could not be read.
        num_patches: in the cohort.
        num_positive_patches: with truth 1.
        num_known_patches: with truth 1 or 0; none where nothing is annotated.
        num_mimics: known to look like a tumour and to be none; None where tile.mimic_groups is not given.
        num_points_outside: points without a patch of their own: it would not lie wholly inside, or is another point's.
        num_background: patches that the background filters left out.
        num_outlines_repaired: annotated outlines that crossed themselves.
        num_outlines_left_out: annotated outlines without an area.
        num_assumed_mpp: slides of which neither table nor file tells the microns per pixel.
        num_unlabelled: slides without a label in the first label column.
        num_in_qupath_frame: slides whose annotation or points count from the corner of a scan inside the slide.
        num_in_level0_frame: such slides, where they count from the corner of level 0.
        failures: reason by slide id.
        empties: reason by slide id.
        outliers: slides whose number of patches stands out.
        contradicted_mpp: by slide id what the table and the file say of its microns per pixel, where they disagree.
        mixed_mpp: whether native pixels were cut from slides of different microns per pixel.
        num_tiled: slides cut by this run; the others were there already.
        num_points_unmatched: points whose image is none of the slides.
        split_drawn: whether the split was drawn, as the table has no split column.
        annotations: what the annotations were taken as, and what contradicts them.
        patients_known: whether it was drawn by patient: the table says whose slides they are.
        split_by: what was drawn whole: "patient" or "site".
        splits: what each split holds, of slides with patches.
        tissue: how tissue was found, in words.
    """

    num_slides: int
    num_done: int
    num_empty: int
    num_failed: int
    num_patches: int
    num_positive_patches: int
    num_points_outside: int
    num_background: int
    num_outlines_repaired: int
    num_outlines_left_out: int
    num_assumed_mpp: int
    num_unlabelled: int
    failures: dict[str, str]
    empties: dict[str, str]
    outliers: list[Outlier]
    mixed_mpp: bool
    num_tiled: int = 0
    num_known_patches: int = 0
    num_mimics: int | None = None
    contradicted_mpp: dict[str, str] = field(default_factory=dict)
    num_in_qupath_frame: int = 0
    num_in_level0_frame: int = 0
    num_points_unmatched: int = 0
    split_drawn: bool = False
    annotations: AnnotationSummary = field(default_factory=AnnotationSummary)
    patients_known: bool = False
    split_by: str = "patient"
    splits: list[SplitCount] = field(default_factory=list)
    tissue: list[str] = field(default_factory=list)
