"""What `hnm predict` and `hnm export` do: a model of a run, or an exported one, on slides that no cohort holds.

files or slides.csv ──▶ a job per slide ──each alone──▶ heatmap, polygons, patches ──▶ predictions.parquet
"""

import hashlib
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hnm.config import RECORDED, read_config
from hnm.engine.engine import EngineConfig
from hnm.engine.numerics import numerics
from hnm.engine.ranks import single_world
from hnm.model.export import export as export_run
from hnm.model.export import require_writable
from hnm.model.hub import write_hub
from hnm.model.labelled import labelled_lines
from hnm.model.model import MODEL_FILE, Model, is_exported, open_exported, open_recorded, read_description, with_tile
from hnm.model.onnx import export_onnx
from hnm.model.patient_rows import write_patient_rows
from hnm.model.predict import predict_slide
from hnm.model.predictions import (
    NOT_USED,
    Row,
    done_row,
    failed_row,
    refuse_taken_names,
    row_of,
    rows_of_others,
    write_slide,
    write_table,
)
from hnm.model.several import read_several
from hnm.report.record import RunRecord, read_record
from hnm.run.journal import Journal
from hnm.run.study import open_study
from launch.process.cores import usable_cores
from launch.process.distributed import choose_device
from launch.process.kinds import refuse_other
from launch.process.run_directory import check_cohort, read_run
from launch.process.writer import only_writer
from shards.cohort.cohort import Cohort
from shards.cohort.content import contents_of
from shards.cohort.same_slides import same_slide_warnings
from shards.cohort.slides import Slide, read_slides
from shards.errors import InputError
from shards.tiling.sites import read_points
from shards.tiling.tile_config import OF_ITS_SLIDES
from shards.tiling.unit import SlideJob, slide_job


@dataclass(frozen=True)
class PredictRequest:
    """The command line of `hnm predict`; None is what was not given. See launch/cli/predict.py for each."""

    model: Path
    slides: list[Path]
    out: Path
    points: Path | None = None
    assume_mpp: float | None = None
    threshold: float | None = None
    patch_threshold: float | None = None
    batch_size: int = 64
    workers: int = 0
    device: str = "auto"
    cohort: Path | None = None


def predict(request: PredictRequest) -> int:
    """Score every slide; one that fails is named, the others are done. Exit code 1 if any failed."""
    slides = read_inputs(request.slides, positive_words(request.model))
    for warning in same_slide_warnings(slides, refuse=False):
        print(f"warning: {warning}")
    refuse_taken_names(request.out, slides, contents := contents_of([slide.path for slide in slides]))  # before the work
    model = open_model(request)
    jobs = make_jobs(slides, model, request)
    with only_writer(request.out):
        refuse_taken_names(request.out, slides, contents)  # another process may have written meanwhile
        journal = Journal(None, single_world())
        rows = predict_jobs(jobs, contents, model, request, journal)
        earlier = rows_of_others(request.out, {row.slide_id for row in rows})
        write_table(request.out, [*earlier, *rows])
        if earlier:
            journal.say(f"{len(earlier)} slides of earlier commands stay in the table")
        of_patients = write_patient_rows(request.out, [*earlier, *rows], model)
        return summarise(rows, request, model.known is not None, of_patients, journal)


def predict_jobs(
    jobs: Sequence[SlideJob], contents: Sequence[str], model: Model, request: PredictRequest, journal: Journal
) -> list[Row]:
    """Score the slides that are not done yet, and say of each what came out; return a row of each."""
    journal.say(
        f"{len(jobs)} slides, model {model.about.name} on {model.device}: positive from {model.about.slide_threshold:.4f} on, "
        f"patches from {model.about.patch_threshold:.4f} on ({model.about.patch_threshold_from})"
    )
    rows = []
    for number, (job, content) in enumerate(zip(jobs, contents, strict=True), start=1):
        begin = time.monotonic()
        row, was_done = predict_one(job, content, model, request, journal)
        rows.append(row)
        seconds = "was there" if was_done else f"{time.monotonic() - begin:.1f} s"
        journal.say(f"[{number}/{len(jobs)}] {_in_words(row)} ({seconds})")
    return rows


def export(
    run: Path,
    folder: Path,
    cohort_folder: Path | None,
    merge: bool = False,
    with_onnx: bool = False,
    hub: Path | None = None,
) -> int:
    """Write the model of a run as a folder that needs neither the run nor its cohort; and as ONNX, and for a hub."""
    record = open_record(run, cohort_folder)
    require_writable(folder)
    with only_writer(folder):
        export_run(record, folder, merge)
        for line in _for_others(folder, with_onnx, hub):
            print(line)
    if (note := read_description(folder / MODEL_FILE).encoder.get("licence_note")) is not None:
        print(f"licence: {note}")
    print(f"wrote {folder}: read {folder / 'MODEL.md'}. Next: hnm predict {folder} SLIDES --out predictions/")
    return 0


def _for_others(folder: Path, with_onnx: bool, hub: Path | None) -> list[str]:
    """Write an exported model as ONNX and for a hub, where that is wanted; return what to say of it."""
    if not with_onnx and hub is None:
        return []
    model = open_exported(folder, torch.device("cpu"))
    return (export_onnx(model, folder) if with_onnx else []) + (write_hub(model, folder, hub) if hub else [])


def open_record(run: Path, cohort_folder: Path | None) -> RunRecord:
    """Open a run with its cohort.

    Raises:
        InputError: either is missing, or they do not belong together.
    """
    refuse_other(run)
    config, recorded_folder = read_run(run)
    cohort = Cohort.open(cohort_folder or recorded_folder)
    check_cohort(run, cohort, config.data)
    return read_record(run, config, open_study(cohort, config.data, config.seed, "the model of a run"))


def open_model(request: PredictRequest) -> Model:
    """Open the run or the exported folder, with the settings of the command line."""
    folder = request.model
    check_model(folder)
    device = choose_device(request.device)
    model = open_exported(folder, device) if is_exported(folder) else open_recorded(open_record(folder, request.cohort), device)
    changes: dict[str, Any] = {"points_file": None, "positive_class": None, **dict.fromkeys(OF_ITS_SLIDES)}
    changes |= {"allow_unlabelled": True, "skip_bad_outlines": True}
    if request.assume_mpp is not None:
        changes["assume_mpp"] = request.assume_mpp
    model = with_tile(model, **changes)
    return with_thresholds(model, request.threshold, request.patch_threshold)


def check_model(folder: Path) -> None:
    """Refuse what is neither a run nor an exported folder of one model."""
    if is_exported(folder):
        return
    if read_several(folder) is not None:
        raise InputError(f"{folder}: models of several targets, of which one is taken here. Name it: {folder / 'targets'}/...")
    refuse_other(folder)
    if not (folder / "state.json").is_file():
        raise InputError(f"{folder}: neither a run nor an exported model. Give what hnm train or hnm export wrote")


def with_thresholds(model: Model, slide: float | None, patch: float | None) -> Model:
    """Return the model with other thresholds, where given."""
    about = model.about
    if slide is not None:
        about = replace(about, slide_threshold=slide, patient_threshold=None)  # one threshold for all that is called
    if patch is not None:
        about = replace(about, patch_threshold=patch, patch_threshold_from="--patch-threshold")
    return replace(model, about=about)


def positive_words(model: Path) -> list[str]:
    """Return which words of labels are positive (data.positive), of a run or an exported model; none where there is neither."""
    return read_config(model / RECORDED).data.positive if (model / RECORDED).is_file() else []


def read_inputs(paths: Sequence[Path], positive: Sequence[str] = ()) -> list[Slide]:
    """Return the slides of the command line: image files, and tables (.csv) with slide_id, path and more.

    Raises:
        InputError: a table has a mistake, or two slides have one name.
    """
    slides: list[Slide] = []
    for path in paths:
        if path.suffix.lower() == ".csv":
            slides += read_slides(path, True, positive)
        elif path.is_dir():
            raise InputError(f"{path}: a folder. Name its slides ({path}/*.svs), or give a table slides.csv")
        else:
            slides.append(Slide(path.stem, path.absolute(), path.stem, {}, {}, None))
    first: dict[str, Slide] = {}
    for slide in slides:
        other = first.setdefault(slide.slide_id.casefold(), slide)
        if other is not slide:
            raise InputError(
                f"{slide.path} and {other.path}: both are called {slide.slide_id!r}. Give a table slides.csv with a "
                "slide_id for each"
            )
    return slides


def make_jobs(slides: Sequence[Slide], model: Model, request: PredictRequest) -> list[SlideJob]:
    """Return a job per slide, in order; with a points file, its patches are cut there."""
    settings = model.config.tile.model_dump(mode="json")
    if request.points is None:
        if model.about.preprocessing["cut"] != "on a grid":
            print(
                "note: this model saw patches cut at points (tile.points_file); these slides are cut on a grid. "
                "--points FILE cuts at points"
            )
        return [slide_job(slide, None, settings) for slide in slides]
    points_of, _ = read_points(request.points, slides, None)
    without = [slide.slide_id for slide in slides if slide.slide_id not in points_of]
    if without:
        raise InputError(
            f"{request.points}: no point of slide {without[0]!r} ({len(without)} slides have none). Add them"
        )
    return [slide_job(slide, points_of[slide.slide_id], settings) for slide in slides]


@numerics(EngineConfig())  # in fp32, whatever it was trained in
def predict_one(
    job: SlideJob, content: str, model: Model, request: PredictRequest, journal: Journal
) -> tuple[Row, bool]:
    """Score one slide and write its files; return its row, and whether an earlier run had done it."""
    slide, label = job.slide, job.slide.labels.get(model.config.data.label_column)
    fingerprint = hashlib.sha256(f"{model.identity} {job.fingerprint}".encode()).hexdigest()
    seen = model.known.told(slide, content) if model.known else ""
    if (row := done_row(request.out, slide, label, fingerprint)) is not None:
        return replace(row, seen=seen, content=content), True
    threads = request.workers or usable_cores()
    try:
        result = predict_slide(job, model, request.batch_size, threads, journal.progress)
    except Exception as error:  # whatever it is, the other slides are done
        if not isinstance(error, (InputError, OSError, FloatingPointError)):
            traceback.print_exc()
        return replace(failed_row(slide, label, _reason(error), model, fingerprint), seen=seen, content=content), False
    row = replace(row_of(slide, label, result, model, fingerprint), seen=seen, content=content)
    write_slide(request.out, slide, row, result)
    return row, False


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
    return str(error) if isinstance(error, (InputError, FloatingPointError)) else f"{type(error).__name__}: {error}"


def _in_words(row: Row) -> str:
    if row.score is None:
        return f"{row.slide_id}: {row.status}"
    seen = f"; {row.seen}" if row.seen else ""
    word = "positive" if row.predicted else "negative"
    iou = "" if row.iou is None else f", overlap with the annotation (IoU) {row.iou:.3f}"
    remark = f"; {row.remark}" if row.remark else ""
    return (
        f"{row.slide_id}: {row.score:.4f} {word}, {row.num_positive_patches:,} of {row.num_patches:,} patches "
        f"positive{iou}{remark}{seen}"
    )


def summarise(rows: list[Row], request: PredictRequest, is_known: bool, of_patients: list[str], journal: Journal) -> int:
    """Say what came out of the slides; exit code 1 if one failed."""
    out, scored = request.out, [row for row in rows if row.score is not None]
    failed = [row for row in rows if row.failed]
    called = sum(row.predicted == 1 for row in scored)
    journal.say(
        f"{out / 'predictions.parquet'}: {len(scored)} slides scored, {called} of them positive; "
        f"{len(rows) - len(scored) - len(failed)} empty, {len(failed)} failed"
    )
    if unused := [row.slide_id for row in rows if NOT_USED in row.remark]:
        journal.say(f"warning: annotations that do not say what is positive, not used: {len(unused)}, such as {unused[0]}'s")
    table = next((path for path in request.slides if path.suffix.lower() == ".csv"), "slides.csv")
    validate = f"hnm validate {request.model} {table} --out {out}"
    for line in [*labelled_lines(rows, is_known, validate), *of_patients]:
        journal.say(line)
    journal.say(f"look at {out / 'heatmaps'}; QuPath opens {out / 'geojson'}. For research, not for diagnosis")
    for row in failed:
        journal.say(f"  {row.slide_id}: {row.status}")
    return 1 if failed else 0
