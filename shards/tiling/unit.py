"""One slide as a unit of work: the job that is to be done, and its result on disk.

    SlideJob ──tile_slide──▶ shards/<key>-0000.tar ...   the JPEGs
                             units/<key>.parquet         a row per patch, and a `Unit` in the file's metadata

A unit is fresh, and is not done again, while the fingerprint of its job is the same and its tars are there.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.cohort.annotations import Annotation
from shards.cohort.cohort import FORMAT_VERSION, PATCH_SCHEMA
from shards.cohort.groups import Tally
from shards.cohort.slides import Slide
from shards.exchange.tiles import GivenTiles
from shards.files import plain_name, whole_file
from shards.tiling.sites import Points, Sites
from shards.tiling.tar import Entry
from shards.tiling.tile_config import OF_ITS_SLIDES

# The cohort's patch table without the slide, which the merge knows; `shard` counts the unit's own tars.
UNIT_SCHEMA = pa.schema([field for field in PATCH_SCHEMA if field.name != "slide"])
BOUNDED_SUFFIXES = (".mrxs", ".scn", ".bif", ".czi")  # whose scan may begin inside level 0
METADATA_KEY = b"hnm.unit"
# Names the way that annotations are read: since "2" islands in holes count, so annotated slides of before are cut anew.
READING = b"annotation 2"
# Likewise of slides whose tissue otsu_saturation finds: since "2" its threshold has limits.
TISSUE = b"tissue 2"
# Settings that are younger than units on disks: they are digested below, and only where they change something.
OF_OWN_DIGEST = ("annotation_frame", "jpeg_subsampling", "keep_jpeg", *OF_ITS_SLIDES)
YOUNG_FIELDS = {"patch_level0", "read_by", "num_openslide_reads", "num_kept_jpegs"}  # written only where they say something
AGAINST = ", against "  # in mpp_from: the table's microns per pixel are not the file's


@dataclass(frozen=True)
class Masks:
    """A slide's files of outlines or pixels: of tissue, and of artefacts; None: there is none."""

    tissue: Path | None = None
    artefacts: Path | None = None


@dataclass(frozen=True)
class SlideJob:
    """What is to be cut from one slide.

    Attributes:
        slide: the slide.
        points: where to cut; None: on the grid.
        fingerprint: changes when the image file, the annotation, the settings or the points do.
        is_negative: whether its label says that no patch is positive.
        coords: file of the patches that another tool has chosen; None: on the grid, or at the points.
        tiles: patches that are cut already; None: they are to be cut.
        masks: that keep or drop patches.
    """

    slide: Slide
    points: Points | None
    fingerprint: str
    is_negative: bool = False
    coords: Path | None = None
    tiles: GivenTiles | None = None
    masks: Masks = Masks()


@dataclass(frozen=True)
class Unit:
    """What became of one slide.

    Attributes:
        fingerprint: of the job that was done.
        status: "done", "empty: <reason>" or "failed: <reason>".
        width: of the slide, level-0 pixels; None if it could not be opened.
        height: likewise.
        source_mpp: microns per pixel at level 0, None if unknown.
        mpp_from: who says so: "table", "header", "tags", "ome-xml", "assumed" or "" (see shards.tiling.mpp).
        num_patches: that were cut.
        num_points_outside: points whose patch does not lie wholly inside the slide, or is that of another point.
        num_background: patches that the background filters left out.
        num_outlines_repaired: annotated outlines that crossed themselves.
        num_outlines_left_out: annotated outlines without an area.
        num_marks: points, lines and the like in the annotation, which have no area.
        groups: of the annotation, by name.
        annotation_problem: why it is unknown what is positive, else "".
        annotation_frame: "qupath" or "level0" where the scan begins inside the slide and has an annotation or points.
        frame_x_level0: where (0, 0) of these lies, level-0 pixels.
        frame_y_level0: likewise.
        tissue_saturation: of otsu_saturation: above it, of 255, was tissue.
        tissue_from: which threshold that is (see shards.tiling.tissue).
        tars: size in bytes by file name, in order.
        patch_level0: side of a patch, level-0 pixels, where another tool has chosen it.
        read_by: "tiles" (decoded here) or "openslide"; "" of plain images and of units of before.
        num_openslide_reads: of a slide read by tiles: parts that OpenSlide had to read, for a tile could not be decoded.
        num_kept_jpegs: patches that are the slide's own bytes (tile.keep_jpeg).
    """

    fingerprint: str
    status: str
    width: int | None = None
    height: int | None = None
    source_mpp: float | None = None
    mpp_from: str = ""
    num_patches: int = 0
    num_points_outside: int = 0
    num_background: int = 0
    num_outlines_repaired: int = 0
    num_outlines_left_out: int = 0
    num_marks: int = 0
    groups: dict[str, Tally] = field(default_factory=dict)
    annotation_problem: str = ""
    annotation_frame: str = ""
    frame_x_level0: int = 0
    frame_y_level0: int = 0
    tissue_saturation: float | None = None
    tissue_from: str = ""
    tars: dict[str, int] = field(default_factory=dict)
    patch_level0: int | None = None
    read_by: str = ""
    num_openslide_reads: int = 0
    num_kept_jpegs: int = 0

    @property
    def failed(self) -> bool:
        return self.status.startswith("failed")

    @property
    def empty(self) -> bool:
        return self.status.startswith("empty")


def slide_job(
    slide: Slide, points: Points | None, settings: dict[str, Any], is_negative: bool = False, coords: Path | None = None
) -> SlideJob:
    """Return the job for a slide.

    Args:
        slide: the slide; if its file is missing, the job will fail and say so.
        points: where to cut; None: on the grid.
        settings: those that change the patches or the files they are in, as JSON values.
        is_negative: whether its label says that no patch is positive.
        coords: file of the patches that another tool has chosen; if it is missing, the job will fail and say so.
    """
    frame = settings.get("annotation_frame", "qupath")
    stored = settings.get("jpeg_subsampling", 444), settings.get("keep_jpeg", False)
    settings = {name: value for name, value in settings.items() if name not in OF_OWN_DIGEST}
    identity = [FORMAT_VERSION, slide.slide_id, str(slide.path), *_size_and_time(slide.path), slide.mpp, settings]
    digest = hashlib.sha256(json.dumps([*identity, is_negative], sort_keys=True).encode())
    if "otsu_saturation" in settings.get("background", []):
        digest.update(TISSUE)
    if points is not None:
        digest.update(b"points" + points.xy_level0.tobytes() + points.truth.tobytes())
    if coords is not None:
        digest.update(b"coords" + (coords.read_bytes() if coords.is_file() else b"missing"))
    if slide.annotation is not None:
        digest.update(READING + slide.annotation.suffix.encode())
        digest.update(slide.annotation.read_bytes() if slide.annotation.is_file() else b"missing")
    # Only where it can make a difference: units of before that setting stay fresh. Those of slides with bounds were cut in
    # the frame of level 0; a Ventana .tif alone can't be told by its name.
    may_have_bounds = slide.path.suffix.lower() in BOUNDED_SUFFIXES and (points is not None or slide.annotation is not None)
    if may_have_bounds or frame != "qupath":
        digest.update(b"frame" + frame.encode())
    if stored != (444, False):
        digest.update(f"jpeg {stored}".encode())
    return SlideJob(slide, points, digest.hexdigest(), is_negative, coords)


def with_masks(job: SlideJob, masks: Masks) -> SlideJob:
    """Return the job with masks; one that is missing makes it fail and say so."""
    digest = hashlib.sha256(job.fingerprint.encode())
    for kind, path in (("tissue", masks.tissue), ("artefacts", masks.artefacts)):
        if path is not None:
            digest.update(kind.encode() + path.suffix.encode() + (path.read_bytes() if path.is_file() else b"missing"))
    return job if masks == Masks() else replace(job, masks=masks, fingerprint=digest.hexdigest())


def annotation_fields(annotation: Annotation | None) -> dict[str, Any]:
    """Return what a `Unit` says of the slide's annotation, by field."""
    if annotation is None:
        return {}
    return {
        "num_outlines_repaired": annotation.num_repaired,
        "num_outlines_left_out": annotation.num_left_out,
        "num_marks": annotation.num_marks,
        "groups": annotation.groups,
        "annotation_problem": annotation.problem,
    }


def _size_and_time(path: Path) -> tuple[int, int] | tuple[None, None]:
    try:
        stat = path.stat()
    except OSError:
        return None, None
    return stat.st_size, stat.st_mtime_ns


def unit_path(cohort: Path, slide: Slide) -> Path:
    """Return where a slide's unit lies."""
    return cohort / "units" / f"{slide.key}.parquet"


def write_unit(path: Path, unit: Unit, sites: Sites, entries: Sequence[Entry]) -> None:
    """Write a unit: a row per site, whose JPEG lies at the entry with the same number."""
    index_of_tar = {name: index for index, name in enumerate(unit.tars)}
    columns = {
        "x_level0": sites.x_level0,
        "y_level0": sites.y_level0,
        "shard": [index_of_tar[entry.tar_name] for entry in entries],
        "offset": [entry.offset for entry in entries],
        "nbytes": [entry.nbytes for entry in entries],
        "truth": sites.truth,
    }
    told = {name: value for name, value in asdict(unit).items() if name not in YOUNG_FIELDS or value}
    schema = UNIT_SCHEMA.with_metadata({METADATA_KEY: json.dumps(told).encode()})
    with whole_file(path) as temporary:
        pq.write_table(pa.table(columns, schema=schema), temporary)


def write_pictureless_unit(path: Path, unit: Unit, sites: Sites) -> None:
    """Write a unit whose patches have no picture: a row per site, in no tar."""
    nowhere = {"shard": -1, "offset": 0, "nbytes": 0}
    columns = {"x_level0": sites.x_level0, "y_level0": sites.y_level0, "truth": sites.truth}
    columns |= {name: np.full(len(sites), value) for name, value in nowhere.items()}
    schema = UNIT_SCHEMA.with_metadata({METADATA_KEY: json.dumps(asdict(unit)).encode()})
    with whole_file(path) as temporary:
        pq.write_table(pa.table({name: columns[name] for name in UNIT_SCHEMA.names}, schema=schema), temporary)


def read_unit(path: Path) -> Unit:
    """Read what became of a slide, without its rows."""
    fields = json.loads(pq.read_schema(path).metadata[METADATA_KEY])
    for name in fields["tars"]:
        plain_name(name, path)
    groups = {name: Tally(**tally) for name, tally in fields.pop("groups", {}).items()}
    return Unit(**fields, groups=groups)


def read_unit_rows(path: Path) -> pa.Table:
    """Read a unit's patches, as in `UNIT_SCHEMA`."""
    return pq.read_table(path).replace_schema_metadata(None)


def is_fresh(job: SlideJob, cohort: Path) -> bool:
    """Is this job done already? A failed one is not: the next run tries it again."""
    unit = finished_unit(job, cohort)
    return unit is not None and not unit.failed


def finished_unit(job: SlideJob, cohort: Path) -> Unit | None:
    """Return what became of this job, failed or not; None: it isn't done, or a tar of it is missing or cut short."""
    path = unit_path(cohort, job.slide)
    try:
        unit = read_unit(path)
    except FileNotFoundError:
        return None
    whole = all(_has_size(cohort / "shards" / name, nbytes) for name, nbytes in unit.tars.items())
    return unit if unit.fingerprint == job.fingerprint and whole else None


def _has_size(path: Path, nbytes: int) -> bool:
    return path.is_file() and path.stat().st_size == nbytes
