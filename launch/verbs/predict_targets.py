"""What `hnm predict` and `hnm export` do where a run has several targets: the encoder sees a slide once, each target scores it.

    OUT/KEY/               of each target what hnm predict writes for one: predictions.parquet, patches, heatmaps, geojson
    OUT/predictions.parquet  a row per slide: the targets' scores side by side; of classes, which is called
"""

import hashlib
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hnm.engine.engine import EngineConfig
from hnm.engine.numerics import numerics
from hnm.engine.ranks import single_world
from hnm.evidence.evaluate import read_metrics
from hnm.evidence.evaluate_targets import config_of_target
from hnm.model.export import export as export_run
from hnm.model.model import Model
from hnm.model.patient_rows import write_patient_rows
from hnm.model.predict import predict_targets_of_slide
from hnm.model.predictions import (
    Row,
    done_row,
    failed_row,
    refuse_taken_names,
    row_of,
    rows_of_others,
    write_slide,
    write_table,
)
from hnm.model.several import Several, model_folders, read_several, write_joined, write_several
from hnm.report.record import read_record
from hnm.run.journal import Journal
from hnm.run.study import open_study
from hnm.run.targets import TARGETS_FOLDER
from hnm.target_rounds import target_folders
from launch.process.cores import usable_cores
from launch.process.kinds import refuse_other
from launch.process.run_directory import check_cohort, read_run
from launch.process.writer import only_writer
from launch.verbs import predict as of_one
from launch.verbs.predict import PredictRequest
from shards.cohort.cohort import Cohort
from shards.cohort.content import contents_of
from shards.errors import InputError
from shards.tiling.unit import SlideJob


def folders_to_open(folder: Path, several: Several) -> list[Path]:
    """Return the folders of the targets' models.

    Raises:
        InputError: one is not there.
    """
    folders = model_folders(folder, several.keys)
    for its in folders:
        if not its.is_dir():
            raise InputError(f"{its}: the model of a target is missing. Run hnm evaluate, or hnm export, again")
    return folders


@numerics(EngineConfig())  # in fp32, whatever it was trained in
def predict_job(
    job: SlideJob, content: str, models: Sequence[Model], outs: Sequence[Path], batch_size: int, workers: int, journal: Journal
) -> list[Row]:
    """Score one slide for all targets and write their files; return a row for each."""
    slide = job.slide
    labels = [slide.labels.get(model.config.data.label_column) for model in models]
    prints = [hashlib.sha256(f"{model.identity} {job.fingerprint}".encode()).hexdigest() for model in models]
    seen = models[0].known.told(slide, content) if models[0].known else ""
    done = [done_row(out, slide, label, its) for out, label, its in zip(outs, labels, prints, strict=True)]
    if (rows := [row for row in done if row is not None]) and len(rows) == len(models):
        return [replace(row, seen=seen, content=content) for row in rows]
    try:
        results = predict_targets_of_slide(job, models, batch_size, workers or usable_cores(), journal.progress)
    except Exception as error:  # whatever it is, the other slides are done
        if not isinstance(error, (InputError, OSError, FloatingPointError)):
            traceback.print_exc()
        reason = str(error) or type(error).__name__
        each = zip(labels, models, prints, strict=True)
        failed = [failed_row(slide, label, reason, model, its) for label, model, its in each]
        return [replace(row, seen=seen, content=content) for row in failed]
    rows = []
    for out, label, result, model, its in zip(outs, labels, results, models, prints, strict=True):
        rows.append(replace(row_of(slide, label, result, model, its), seen=seen, content=content))
        write_slide(out, slide, rows[-1], result)
    return rows


def predict_jobs(
    jobs: Sequence[SlideJob],
    contents: Sequence[str],
    models: Sequence[Model],
    several: Several,
    out: Path,
    batch_size: int,
    workers: int,
    journal: Journal,
) -> list[list[Row]]:
    """Score all slides for all targets, write the tables; return the rows by target."""
    outs = [out / key for key in several.keys]
    for its in outs:
        refuse_taken_names(its, [job.slide for job in jobs], contents)
    rows_of: list[list[Row]] = [[] for _ in outs]
    for number, (job, content) in enumerate(zip(jobs, contents, strict=True), start=1):
        rows = predict_job(job, content, models, outs, batch_size, workers, journal)
        for known, row in zip(rows_of, rows, strict=True):
            known.append(row)
        scores = ", ".join(
            f"{name} {'none' if row.score is None else f'{row.score:.4f}'}"
            for name, row in zip(several.names, rows, strict=True)
        )
        told = scores if rows[0].status == "done" else rows[0].status
        journal.say(f"[{number}/{len(jobs)}] {job.slide.slide_id}: {told}")
    names = {job.slide.slide_id for job in jobs}
    all_rows = [[*rows_of_others(its, names), *rows] for its, rows in zip(outs, rows_of, strict=True)]
    for its, rows in zip(outs, all_rows, strict=True):
        write_table(its, rows)
    write_joined(out / "predictions.parquet", several, all_rows)
    return all_rows


def predict(request: PredictRequest) -> int:
    """Score every slide by a model, or by those of several targets; exit code 1 if a slide failed."""
    if (several := read_several(request.model)) is None:
        return of_one.predict(request)
    return predict_several(several, request)


def predict_several(several: Several, request: PredictRequest) -> int:
    """Score every slide for all targets; the encoder sees each once.

    Raises:
        InputError: thresholds are given, which are of one model.
    """
    if request.threshold is not None or request.patch_threshold is not None:
        raise InputError(
            f"--threshold and --patch-threshold are of one model. Give that of a target: {request.model / TARGETS_FOLDER}/..."
        )
    requests = [
        replace(request, model=folder, out=request.out / key)
        for folder, key in zip(folders_to_open(request.model, several), several.keys, strict=True)
    ]
    slides = of_one.read_inputs(request.slides, of_one.positive_words(requests[0].model))
    contents = contents_of([slide.path for slide in slides])
    models = [of_one.open_model(its) for its in requests]
    jobs, journal = of_one.make_jobs(slides, models[0], request), Journal(None, single_world())
    journal.say(f"{len(jobs)} slides, {len(models)} targets of one encoder on {models[0].device}: {', '.join(several.names)}")
    with only_writer(request.out):
        size = (request.batch_size, request.workers)
        rows_of = predict_jobs(jobs, contents, models, several, request.out, *size, journal)
    codes = []
    for rows, its, model, name in zip(rows_of, requests, models, several.names, strict=True):
        of_patients = write_patient_rows(its.out, rows, model)
        codes.append(of_one.summarise(rows[-len(jobs) :], its, model.known is not None, of_patients, journal.of_target(name)))
    journal.say(f"{request.out / 'predictions.parquet'}: all targets side by side")
    return max(codes)


def export(
    run: Path,
    folder: Path,
    cohort_folder: Path | None,
    merge: bool = False,
    with_onnx: bool = False,
    hub: Path | None = None,
) -> int:
    """Write the model of a run, or those of its targets, as a folder that needs neither the run nor its cohort."""
    if not (run / TARGETS_FOLDER).is_dir():
        return of_one.export(run, folder, cohort_folder, merge, with_onnx, hub)
    return export_several(run, folder, cohort_folder, merge, with_onnx, hub)


def export_several(
    run: Path, folder: Path, cohort_folder: Path | None, merge: bool, with_onnx: bool, hub: Path | None
) -> int:
    """Write the models of all targets of a run: a folder each, and what joins them.

    Raises:
        InputError: something is asked for that is of one model, or the folder holds something else.
    """
    if with_onnx or hub is not None:
        raise InputError("--onnx and --hub are of one model, and this run has several targets. Export without them")
    if folder.exists() and read_several(folder) is None and any(folder.iterdir()):
        raise InputError(f"{folder}: exists and is no export of several targets. Choose another name or remove it")
    refuse_other(run)
    config, recorded_folder = read_run(run)
    cohort = Cohort.open(cohort_folder or recorded_folder)
    check_cohort(run, cohort, config.data)
    study = open_study(cohort, config.data, config.seed)
    assert study.targets is not None
    with only_writer(folder):
        for target, (its, key) in enumerate(zip(target_folders(run, study.targets), study.targets.keys, strict=True)):
            record = read_record(its, config_of_target(config, study.targets, target), study.of_target(target))
            export_run(record, folder / TARGETS_FOLDER / key, merge)
        write_several(folder, study.targets, read_metrics(run) if (run / "metrics.json").is_file() else None)
    print(f"wrote {folder}: {len(study.targets.names)} targets. Next: hnm predict {folder} SLIDES --out predictions/")
    return 0
