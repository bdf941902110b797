"""What `hnm report` and `hnm ui` do: look at a run, as a page or in MLflow."""

from pathlib import Path

from hnm.config import Config
from hnm.journal import Journal
from hnm.record import read_record
from hnm.report import make_report
from hnm.session import Session
from hnm.study import open_study
from launch.distributed import join_world
from launch.report_cli import MAX_HEATMAPS
from launch.run_directory import check_cohort, read_run
from shards.cohort import Cohort
from shards.reader import PatchReader


def report(run: Path, cohort_folder: Path | None, max_heatmaps: int) -> int:
    """Draw the pictures of a run and write run/report.html; finished or not, evaluated or not."""
    config, recorded_folder = read_run(run)
    cohort = Cohort.open(cohort_folder or recorded_folder)
    check_cohort(run, cohort)
    study, world = open_study(cohort, config.data, config.seed), join_world(config.device)
    journal = Journal(None, world)
    with PatchReader(study.cohort, config.reader, study.slide_groups) as reader:
        write_report(config, run, Session(study, reader, config.seed, world, journal), max_heatmaps)
    return 0


def write_report(config: Config, run: Path, session: Session, max_heatmaps: int = MAX_HEATMAPS) -> None:
    """Write the page of a run, and say where it is. Call it on rank 0 only."""
    record = read_record(run, config, session.study)
    page = make_report(record, session.reader, session.world.device, max_heatmaps, session.journal.progress)
    session.journal.say(f"wrote {page}: open it in a browser; its pictures are in {run / 'figures'}")
