"""What `hnm cohort` does: write slides.csv for a public cohort, and say what was found."""

from pathlib import Path

from shards.camelyon16 import write_camelyon16
from shards.tcga import write_tcga


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
) -> int:
    """Write the table of a TCGA cohort."""
    summary = write_tcga(manifest, mutations, genes, out, slides, all_slides, num_folds, seed)
    print(
        f"{summary.slides_csv}: {summary.num_slides} slides of {summary.num_patients} patients, "
        f"{summary.num_labelled_patients} of them with a mutation row; {summary.num_unlabelled_slides} slides "
        f"unlabelled"
    )
    for gene, number in summary.num_positive_patients.items():
        print(f"  label_{gene}: {number} positive patients of {summary.num_labelled_patients}")
    if summary.num_not_diagnostic:
        print(f"{summary.num_not_diagnostic} slides left out: not diagnostic (--all-slides takes them)")
    if summary.num_missing_files:
        print(f"{summary.num_missing_files} slides are not downloaded yet: gdc-client download -m {manifest}")
    print(
        f"Next: hnm tile {summary.slides_csv} cohort/ --config tcga_luad --preview 5; "
        f"to train: data.label_column=label_{genes[0]} data.split_column=split_fold0"
    )
    return 0
