"""What `hnm validate` does: an exported model, or a run, on slides of another place that have labels.

model + cohort/ or slides.csv ──check──▶ score what is missing ──▶ validation.json ──▶ validation.html, MLflow

OUT/ validation.json  validation.html  patients.parquet  predictions.parquet  patches/  figures/
     heatmaps/  geojson/  of a table, as hnm predict writes them
"""

import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hnm.config import Config, ConfigError, load_config
from hnm.engine.ranks import single_world
from hnm.evidence.validate import Plan, check
from hnm.evidence.validate import validate as measure
from hnm.model.model import Model, is_exported
from hnm.model.patient_rows import write_patient_rows
from hnm.model.predict_tiled import refuse_other_patches
from hnm.model.predictions import Row, refuse_taken_names, rows_of_others, write_table
from hnm.model.reference import reference_of
from hnm.report.validation_report import make_validation_report, print_validation
from hnm.run.journal import Journal
from hnm.run.told import read_events
from hnm.run.tracking import Tracker
from hnm.run.tracking_copy import DatabaseCopy
from hnm.statistics.recalibrate import Kind
from launch.process.disks import is_shared
from launch.process.writer import only_writer
from launch.verbs.predict import PredictRequest, make_jobs, open_model, open_record, positive_words, predict_jobs
from launch.verbs.report import numbers_of
from launch.verbs.validate_inputs import Inputs, measured, read_inputs, score_tiled
from shards.errors import InputError
from shards.files import write_json
from shards.reading.reader import PatchReader

RESULT_FILE = "validation.json"
TAKEN = ("tracking", "reader", "slurm")  # sections that are the command's; the others are the model's
OTHERS = {"cohort.json": "a cohort", "state.json": "a run", "model.json": "an exported model", "plan.json": "a study"}


@dataclass(frozen=True)
class ValidateRequest:
    """The command line of `hnm validate`; None is what was not given. See launch/cli/validate.py for each."""

    model: Path
    source: Path
    out: Path
    by: list[str] = field(default_factory=list)
    recalibrate: Kind | None = None
    part: float | None = None
    alpha: float | None = None
    label_column: str | None = None
    slides_csv: Path | None = None
    assume_mpp: float | None = None
    batch_size: int = 64
    workers: int = 0
    device: str = "auto"
    cohort: Path | None = None
    config: str | None = None
    overrides: list[str] = field(default_factory=list)


def validate(request: ValidateRequest) -> int:
    """Measure the model; exit code 1 if a slide failed. What an earlier command has scored is not scored again."""
    config = settings_of_command(request)
    refuse_other_folder(request.out)
    asked = PredictRequest(
        request.model, [request.source], request.out, None, request.assume_mpp, None, None, request.batch_size,
        request.workers, request.device, request.cohort,
    )  # fmt: skip
    model = with_labels_of(open_model(asked), request.label_column)
    inputs = read_inputs(request.source, request.slides_csv, model, positive_words(request.model))
    plan = plan_of(request, model, config)
    none = np.zeros(len(inputs.slides))
    check(inputs.as_cases(none, none.astype(bool)), plan)  # before hours of scoring
    if not is_exported(request.model):
        about = replace(model.about, reference=reference_of(open_record(request.model, request.cohort)))
        model = replace(model, about=about)
    with only_writer(request.out):
        return _validate_in(request.out, inputs, model, asked, plan, config)


def plan_of(request: ValidateRequest, model: Model, config: Config) -> Plan:
    """Return what is asked for: how slides and patients are called is the model's, the prevalence may be this place's."""
    evaluate = model.config.evaluate
    if any(override.startswith("evaluate.prevalence=") for override in request.overrides):
        evaluate = evaluate.model_copy(update={"prevalence": config.evaluate.prevalence})
    threshold = model.about.patient_threshold
    return Plan(request.by, request.recalibrate, request.part, request.alpha, model.config.seed, evaluate, threshold)


def settings_of_command(request: ValidateRequest) -> Config:
    """Return the sections that say how it is read and tracked; all else is the model's.

    Raises:
        ConfigError: the command line gives another section.
    """
    for override in request.overrides:
        if override.split(".")[0] not in TAKEN and not override.startswith("evaluate.prevalence="):
            raise ConfigError(
                f"{override}: hnm validate takes the sections {', '.join(TAKEN)} and evaluate.prevalence only; all else is the "
                "model's own. Leave it out"
            )
    return load_config(request.config, None, request.overrides)


def refuse_other_folder(out: Path) -> None:
    """Refuse to write into a folder that is something else.

    Raises:
        InputError: saying what it is.
    """
    for name, what in OTHERS.items():
        if (out / name).is_file():
            raise InputError(f"--out {out}: is {what}. Give another folder: hnm validate writes its own")


def with_labels_of(model: Model, column: str | None) -> Model:
    """Return the model with another column of labels, where given."""
    if column is None:
        return model
    data = model.config.data.model_copy(update={"label_column": column})
    return replace(model, config=model.config.model_copy(update={"data": data}))


def recorded_of(model: Model) -> dict[str, Any]:
    """Return what the export says of the slides that it was made with."""
    test = (model.about.test or {}).get("slide")
    promised, where = (
        (test, "its own test slides") if test else (model.about.validation, "its own validation slides, which chose it")
    )
    split = model.about.data["splits"]["test" if test else "validation"]
    missed = (model.about.test or {}).get("without_patch", {}).get("missed", 0) if test else 0
    slides = {"positive": split["positive"] + missed, "negative": split["slides"] - split["positive"]}
    return {"reference": model.about.reference, "promised": promised, "promised_on": where, "promised_slides": slides}


def _validate_in(out: Path, inputs: Inputs, model: Model, asked: PredictRequest, plan: Plan, config: Config) -> int:
    world = single_world()
    copy = DatabaseCopy(out) if config.tracking.uri is None and is_shared(out) else None
    tracker = Tracker(out, config.tracking, {"validate": asdict(plan) | {"evaluate": plan.evaluate.model_dump()}}, copy)
    journal = Journal(out, world, tracker.metrics_written)
    status = "FAILED"
    try:
        rows = _scored(inputs, model, asked, config, journal)
        result = result_of(inputs, rows, model, plan)
        cases, colours, _ = measured(inputs, rows)
        for line in write_patient_rows(out, rows, model):
            journal.say(line)
        write_json(out / RESULT_FILE, result)
        page = make_validation_report(out, result, cases, colours, model.about.reference)
        print_validation(result)
        step = sum(event.get("phase") == "validation" for _, event in read_events(out / "events.jsonl", 0))
        numbers = numbers_of(
            {name: result[name] for name in ("frozen", "rechosen", "recalibration", "conformal") if result[name]}
        )
        journal.metrics("validation", step, **numbers)
        journal.say(f"wrote {out / RESULT_FILE} and {page}: open it in a browser. For research, not for diagnosis")
        status = "FINISHED"
    finally:
        files = [out / name for name in (RESULT_FILE, "validation.html", "predictions.parquet", "patients.parquet")]
        tracker.finish(status, [(path, None) for path in files if path.is_file()], {"hnm.validates": model.about.name})
        tracker.close()
        journal.close()
    return 1 if any(row.failed for row in rows) else 0


def _scored(inputs: Inputs, model: Model, asked: PredictRequest, config: Config, journal: Journal) -> list[Row]:
    """Return a row for each slide, written to predictions.parquet."""
    begin = time.monotonic()
    if inputs.cohort is None:
        refuse_taken_names(asked.out, inputs.slides, inputs.contents)
        rows = predict_jobs(make_jobs(inputs.slides, model, asked), inputs.contents, model, asked, journal)
    else:
        with PatchReader(inputs.cohort, config.reader) as reader:
            inputs.warnings.extend(refuse_other_patches(inputs.cohort, model, reader))
            rows = score_tiled(inputs, model, reader, asked.batch_size, asked.out, journal)
            if num_broken := len(reader.broken.ids):
                inputs.warnings.append(
                    f"{num_broken:,} patches could not be read, and others stood in for them (reader.broken)"
                )
    inputs.warnings.extend(sorted({row.remark for row in rows if row.remark}))
    write_table(asked.out, [*rows_of_others(asked.out, {row.slide_id for row in rows}), *rows])
    journal.say(f"{len(rows)} slides in {time.monotonic() - begin:.1f} s")
    return rows


def result_of(inputs: Inputs, rows: list[Row], model: Model, plan: Plan) -> dict[str, Any]:
    """Return validation.json."""
    cases, colours, left_out = measured(inputs, rows)
    found = measure(cases, model.about.slide_threshold, recorded_of(model), colours, plan)
    about = model.about
    return {
        "model": {"name": about.name, "identity": model.identity, "round": about.chosen_round, "made_with": about.made_with},
        "slides": {
            "source": str(inputs.source), "fingerprint": inputs.cohort.fingerprint if inputs.cohort else None,
            "label_column": inputs.label_column, "all": inputs.num_rows, "unlabelled": inputs.num_unlabelled, "seen": inputs.seen,
            **left_out, "measured": len(cases),
        },
        "plan": {**asdict(plan), "evaluate": plan.evaluate.model_dump()},
        **found,
        "warnings": [*_told(inputs, rows, model, left_out), *found["warnings"]],
    }  # fmt: skip


def _told(inputs: Inputs, rows: list[Row], model: Model, left_out: dict[str, Any]) -> list[str]:
    """Return what one should know of the slides, a sentence each."""
    told = []
    if model.known is None:
        told.append(
            "this export does not say which slides it was trained on or chosen by: the figures are a test only if it has seen "
            "none of them. Export the run again with this version"
        )
    told += [f"{number} slides are in no figure: {why}" for why, number in inputs.seen.items()]
    if inputs.num_unlabelled:
        told.append(
            f"{inputs.num_unlabelled} of {inputs.num_rows} slides have no label in column {inputs.label_column} and were left out"
        )
    if failed := [f"{row.slide_id} ({row.status})" for row in rows if row.failed]:
        told.append(
            f"{len(failed)} slides failed and are in no figure: {'; '.join(failed[:3])}{' ...' if len(failed) > 3 else ''}"
        )
    if left_out["empty_negative"]:
        told.append(f"{left_out['empty_negative']} negative slides gave no patch and are in no figure")
    if num_missed := sum(row.is_missed for row in rows):
        told.append(
            f"{num_missed} positive slides gave no patch: they count as missed, with score 0; figures without them stand beside"
        )
    return [*told, *inputs.warnings]
