"""`hnm cohort ...`: what these verbs accept; what they do is in launch/verbs/cohort.py."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from launch.cli.options import CohortArgument, finish

cohort_app = typer.Typer(no_args_is_help=True, help="Write slides.csv for a public cohort; correct a cohort's patches.")
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder to write slides.csv to.")]


@cohort_app.command()
def camelyon16(
    root: Annotated[
        Path, typer.Argument(metavar="ROOT", help="Folder with the slides, in the official layout or flat.")
    ],
    out: OutOption = Path("."),
    test_reference: Annotated[
        Path | None, typer.Option(help="Labels of the test slides (CSV); without it, found below ROOT.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="Folder or .tar.xz of JSON outlines, instead of the XML files below ROOT.")
    ] = None,
    validation_share: Annotated[float, typer.Option(help="Share of the training slides drawn for validation.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of that draw.")] = 0,
) -> None:
    """Camelyon16: slides, outlines, test labels by name, and the official split.

    Example: `hnm cohort camelyon16 CAMELYON16/ --out cohorts/`
    """
    from launch.verbs import cohort as cohort_verbs

    finish(lambda: cohort_verbs.camelyon16(root, out, test_reference, annotations, validation_share, seed))


@cohort_app.command()
def tcga(
    manifest: Annotated[Path, typer.Option(help="Manifest of the GDC's download tool.")],
    mutations: Annotated[Path, typer.Option(help="Patient and mutated gene, a row each.")],
    gene: Annotated[list[str], typer.Option(help="A label column for this gene; may be given several times.")],
    out: OutOption = Path("."),
    slides: Annotated[
        Path | None, typer.Option(help="Folder of the downloaded slides; default: the manifest's.")
    ] = None,
    all_slides: Annotated[
        bool, typer.Option("--all-slides", help="Frozen sections too, not only diagnostic slides.")
    ] = False,
    normal_tissue: Annotated[
        bool, typer.Option("--normal-tissue", help="Slides of normal tissue too (sample types 10 to 14), with label 0.")
    ] = False,
    folds: Annotated[int, typer.Option(min=3, help="Number of folds: columns split_fold0, split_fold1, ...")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the folds.")] = 0,
    split_by: Annotated[
        Literal["patient", "site"],
        typer.Option(help="What no two folds share: patients, or tissue source sites (the barcode's), the hospitals."),
    ] = "patient",
) -> None:
    """TCGA: a label column per gene, patient from the barcode, stratified folds by patient or by site.

    Example: `hnm cohort tcga --manifest manifest.txt --mutations mutations.csv --gene EGFR --out cohorts/`
    """
    from launch.verbs import cohort as cohort_verbs

    finish(lambda: cohort_verbs.tcga(manifest, mutations, gene, out, slides, all_slides, folds, seed, normal_tissue, split_by))


@cohort_app.command()
def correct(
    cohort: CohortArgument,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILES...", help="QuPath's GeoJSON, one a slide, named after it.")
    ] = None,
    negative: Annotated[list[str], typer.Option(help="Class of regions that are none; several times.")] = ["Normal"],  # noqa: B006
    positive: Annotated[list[str], typer.Option(help="Class of regions that are positive; several times.")] = ["Tumor"],  # noqa: B006
    clear: Annotated[bool, typer.Option("--clear", help="Forget all earlier corrections first.")] = False,
) -> None:
    """Take back what was set right in QuPath: patches in such regions become known negatives or positives.

    Mining honours them in every round from then on: a known negative is a negative on any training slide, a known positive a
    candidate. Patches, truth and figures stay. Example: `hnm cohort correct cohort/ corrections/*.geojson`
    """
    from launch.verbs import correct as verb

    finish(lambda: verb.correct(cohort, files or [], positive, negative, clear))
