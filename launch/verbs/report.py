"""What `hnm report` and `hnm ui` do: look at a run, as a page or in MLflow."""

import re
import sys
import time
from pathlib import Path
from typing import Any

from hnm.config import Config, flatten
from hnm.evidence.evaluate import read_metrics
from hnm.evidence.evaluate_targets import config_of_target
from hnm.model.export import export
from hnm.model.model import MODEL_FILE
from hnm.model.several import write_several
from hnm.report.page import REPORT_FILE
from hnm.report.record import read_record
from hnm.report.run_report import make_report
from hnm.report.targets_report import make_targets_report
from hnm.run.journal import Journal
from hnm.run.session import Session
from hnm.run.study import open_study
from hnm.run.targets import TARGETS_FOLDER
from hnm.run.tracking_run import MODEL_FOLDER
from hnm.run_rounds import START_ENCODER, home_of, round_folder
from hnm.target_rounds import target_folders
from launch.process.distributed import join_world
from launch.process.kinds import refuse_other
from launch.process.run_directory import check_cohort, read_run
from launch.process.status import read_status
from launch.process.writer import only_writer
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.reading.reader import PatchReader

OF_NAMES = re.compile(r"\.by_slide\.|^classes\.(auc|num_slides)\.")  # figures by slide or class
MAX_HEATMAPS = 200  # unless it is asked for more


def report(run: Path, cohort_folder: Path | None, max_heatmaps: int | None = None) -> int:
    """Draw the pictures of a run and write run/report.html; finished or not, evaluated or not.

    Raises:
        InputError: there is nothing to show (yet).
    """
    refuse_other(run)
    config, recorded_folder = read_run(run)
    status = read_status(run, time.time())
    if status.word == "running":
        if not (round_folder(run, 0) / "mining.json").is_file():
            raise InputError(f"{run}: {status.sentence}. Round 0 is not mined yet, there is nothing to show: wait for it")
        print(f"{run}: {status.sentence}. The page shows the rounds that are done", file=sys.stderr)
    cohort = Cohort.open(cohort_folder or recorded_folder)
    check_cohort(run, cohort, config.data)
    study, world = open_study(cohort, config.data, config.seed), join_world(config.device)
    journal = Journal(None, world)
    with PatchReader(study.cohort, config.reader, study.slide_groups) as reader:
        write_pages(config, run, Session(study, reader, config.seed, world, journal), max_heatmaps)
    return 0


def write_results(config: Config, run: Path, session: Session) -> None:
    """Write the page and the model of an evaluated run: what one looks at, and what one hands on. Call it on rank 0 only."""
    write_pages(config, run, session)
    for its_config, folder, part in parts_of(config, run, session):
        _write_model(its_config, folder, part)
    if session.study.targets is not None and session.study.cohort.has_pictures:
        write_several(run, session.study.targets, read_metrics(run))


def parts_of(config: Config, run: Path, session: Session) -> list[tuple[Config, Path, Session]]:
    """Return configuration, folder and session of each target; of a run of one its own."""
    if (targets := session.study.targets) is None:
        return [(config, run, session)]
    folders = target_folders(run, targets)
    return [(config_of_target(config, targets, i), folder, session.of_target(i)) for i, folder in enumerate(folders)]


def write_pages(config: Config, run: Path, session: Session, max_heatmaps: int | None = None) -> None:
    """Write the page of a run, of several targets one each and one of all. Call it on rank 0 only."""
    parts = parts_of(config, run, session)
    for its_config, folder, part in parts:
        write_report(its_config, folder, part, max_heatmaps)
    if session.study.targets is not None:
        records = [read_record(folder, its_config, part.study) for its_config, folder, part in parts]
        metrics = read_metrics(run) if (run / "metrics.json").is_file() else None
        page = make_targets_report(config, run, session.study, records, metrics)
        session.journal.say(f"wrote {page}: all targets side by side, with links to their pages")


def _write_model(config: Config, run: Path, session: Session) -> None:
    if not session.study.cohort.has_pictures:
        session.journal.say(f"no {MODEL_FOLDER}/: the encoder of these features is not ours; the aggregator is in round-000/")
        return
    with only_writer(run / MODEL_FOLDER):
        export(read_record(run, config, session.study), run / MODEL_FOLDER)
    session.journal.say(f"wrote {run / MODEL_FOLDER}: the model with its card, MODEL.md. Next: hnm predict {home_of(run)} SLIDES")


def has_results(run: Path) -> bool:
    """Return whether `write_results` has been here, to its end; of features that were given there is no model."""
    is_ours = (run / START_ENCODER).is_file()
    folders = [state.parent for state in (run / TARGETS_FOLDER).glob("*/state.json")] or [run]
    has_models = not is_ours or all((folder / MODEL_FOLDER / MODEL_FILE).is_file() for folder in folders)
    return (run / REPORT_FILE).is_file() and has_models


def numbers_of(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the figures of metrics.json as flat names and numbers, for tracking; validation has been told by round.

    Slides are not named: a name may hold what a tracker refuses.
    """
    left_out = ("validation", "chosen_round", "threshold", "targets")  # of targets each has its own
    flat = flatten({name: value for name, value in metrics.items() if name not in left_out})
    return {
        name.replace(".", "_"): value
        for name, value in flat.items()
        if isinstance(value, float | int) and not isinstance(value, bool) and not OF_NAMES.search(name)
    }


def write_report(config: Config, run: Path, session: Session, max_heatmaps: int | None = None) -> None:
    """Write the page of a run, and say where it is. Call it on rank 0 only."""
    record = read_record(run, config, session.study)
    most = MAX_HEATMAPS if max_heatmaps is None else max_heatmaps
    if not session.study.cohort.has_places:
        most = 0
    page = make_report(record, session.reader, session.world.device, most, session.journal.progress)
    session.journal.say(f"wrote {page}: open it in a browser; its pictures are in {run / 'figures'}")


