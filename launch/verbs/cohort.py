"""What `hnm cohort` does: write slides.csv for a public cohort, and say what was found."""

from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from hnm.engine.ranks import single_world
from hnm.run.journal import Journal
from shards.cohort.cohort import Cohort
from shards.public.camelyon16 import write_camelyon16
from shards.public.tcga import NORMAL, TcgaSummary, write_tcga
from shards.reading.check import CheckReport, check_cohort

MAX_DOUBLED = 5  # files of a manifest that are named


def camelyon16(
    root: Path, out: Path, test_reference: Path | None, annotations: Path | None, validation_share: float, seed: int
) -> int:
    """Write the table of Camelyon16."""
    summary = write_camelyon16(root, out, test_reference, annotations, validation_share, seed)
    splits = ", ".join(f"{number} {split}" for split, number in summary.num_slides_of_split.items())
    print(f"{summary.slides_csv}: {splits} slides; {summary.num_annotated} with an annotation file")
    missing = summary.positive_without_annotation
    if missing:
        print(f"{len(missing)} positive slides without one, such as {missing[0]}: their patches' truth is unknown")
    if summary.num_reference_without_slide:
        print(f"{summary.num_reference_without_slide} slides of the test reference are not there")
    print(f"Next: hnm tile {summary.slides_csv} cohort/ --config camelyon16 --preview 5")
    return 0


def tcga(
    manifest: Path,
    mutations: Path,
    genes: list[str],
    out: Path,
    slides: Path | None,
    all_slides: bool,
    num_folds: int,
    seed: int,
    normal_tissue: bool,
    split_by: Literal["patient", "site"],
) -> int:
    """Write the table of a TCGA cohort."""
    summary = write_tcga(manifest, mutations, genes, out, slides, all_slides, num_folds, seed, normal_tissue, split_by)
    print(
        f"{summary.slides_csv}: {summary.num_slides} slides of {summary.num_patients} patients, "
        f"{summary.num_labelled_patients} of them with a mutation row; {summary.num_unlabelled_slides} slides "
        f"unlabelled"
    )
    for gene, number in summary.num_positive_patients.items():
        print(f"  label_{gene}: {number} positive patients of {summary.num_labelled_patients}")
    if summary.sites:
        print(f"folds by site: {summary.sites}")
    if summary.num_not_diagnostic:
        print(f"{summary.num_not_diagnostic} slides left out: not diagnostic (--all-slides takes them)")
    _print_sample_types(summary)
    if summary.doubled:
        shown = ", ".join(summary.doubled[:MAX_DOUBLED]) + (" ..." if len(summary.doubled) > MAX_DOUBLED else "")
        print(f"warning: {manifest} has {len(summary.doubled)} files twice; the second row is left out: {shown}")
    if summary.num_normal_mutations:
        print(f"{summary.num_normal_mutations} rows of {mutations} left out: of a normal sample or a control, not of the tumour")
    if summary.num_missing_files:
        print(f"{summary.num_missing_files} slides are not downloaded yet: gdc-client download -m {manifest}")
    together = f" (together: 'data.targets=[{', '.join(f'label_{gene}' for gene in genes)}]')" if len(genes) > 1 else ""
    print(
        f"Next: hnm tile {summary.slides_csv} cohort/ --config tcga_luad --preview 5; "
        f"to train: data.label_column=label_{genes[0]} data.split_column=split_fold0{together}"
    )
    return 0


def _print_sample_types(summary: TcgaSummary) -> None:
    for kind, number in summary.num_left_out.items():
        remedy = " (--normal-tissue takes them, with label 0)" if kind[:2] in NORMAL else ""
        print(f"{number} slides left out: sample type {kind}{remedy}")
    for kind, number in summary.num_taken.items():
        if kind[:2] in NORMAL:
            print(f"{number} slides of sample type {kind}: label 0")
        else:
            print(f"warning: {number} slides of sample type {kind} have the patient's label; it may be another sample's")


MAX_SHARDS = 50  # shards listed, each with its first problems; all are counted


def run(folder: Path, deep: bool, workers: int) -> int:
    """Check the cohort in `folder`, print what was found, and return 0 when it is sound, else 1."""
    cohort = Cohort.open(folder)
    cohort.require_pictures("hnm check")
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
    if report.damaged:  # this mends shards, no table
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

