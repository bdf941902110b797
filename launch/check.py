"""`hnm check`: compare the tars of a cohort with its patch table and say what is wrong, shard by shard."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from hnm.journal import Journal
from launch.distributed import single_world
from shards.check import CheckReport, check_cohort
from shards.cohort import Cohort

MAX_SHARDS = 50  # shards listed, each with its first problems; all are counted


def run(folder: Path, deep: bool, workers: int) -> int:
    """Check the cohort in `folder`, print what was found, and return 0 when it is sound, else 1."""
    cohort = Cohort.open(folder)
    report = check_cohort(cohort, deep, workers, Journal(None, single_world()).progress)
    _print(report, folder, deep)
    return 0 if report.is_sound else 1


def _print(report: CheckReport, folder: Path, deep: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for problem in report.table_problems:
        console.print(problem, markup=False)
    for shard in report.damaged[:MAX_SHARDS]:
        console.print(f"{shard.shard}: {shard.num_broken:,} of {shard.num_patches:,} patches damaged", markup=False)
        for problem in shard.problems:
            console.print(f"  {problem}", markup=False)
    console.print(_summary(report, folder, deep))
    if not report.is_sound:
        console.print(
            "Remove the damaged shards and run hnm tile again: it makes what is missing. Or train without them: "
            "reader.broken=skip",
            markup=False,
        )
    elif not deep:
        console.print("The JPEGs were not decoded; --deep does that too.", markup=False)


def _summary(report: CheckReport, folder: Path, deep: bool) -> Table:
    table = Table(
        title=f"{folder}: {'sound' if report.is_sound else 'NOT SOUND'}{', every JPEG decoded' if deep else ''}"
    )
    for heading in ("", "checked", "damaged"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("patch table", "1", str(int(bool(report.table_problems))))
    table.add_row("shards", f"{report.num_shards:,}", f"{len(report.damaged):,}")
    table.add_row("patches", f"{report.num_patches:,}", f"{report.num_broken:,}")
    return table
