"""`hnm validate`: what this verb accepts; what it does is in launch/verbs/validate.py."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from launch.cli.options import ConfigOption, MovedCohort, Overrides, finish


def validate(
    model: Annotated[Path, typer.Argument(metavar="MODEL|RUN", help="Folder that hnm export wrote, or run directory.")],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="COHORT|SLIDES.CSV", help="Cut slides (hnm tile), or a table with labels: slide_id, path, label."
        ),
    ],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder to write.")] = Path("validation"),
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="COLUMN", help="Figures of each of its values, too; may be repeated."),
    ] = None,
    recalibrate: Annotated[
        Literal["temperature", "isotonic"] | None, typer.Option(help="Make scores probabilities, learned from --part.")
    ] = None,
    part: Annotated[
        float | None,
        typer.Option(min=0.01, max=0.99, help="Share of the patients that is learned from and not measured."),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=0.5, help='Also say "not sure": the true class may be missing so often. Needs --part.'
        ),
    ] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the labels; default: the model's.")] = None,
    slides_csv: Annotated[
        Path | None, typer.Option(help="Table with more columns of a cohort's slides, for --by; joined by slide_id.")
    ] = None,
    assume_mpp: Annotated[
        float | None, typer.Option(help="Microns per pixel of slides of a table that don't tell.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Patches a forward pass.")] = 64,
    workers: Annotated[
        int, typer.Option("--workers", "-w", min=0, help="Threads that read slides; 0 = one per core.")
    ] = 0,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where the model runs.")] = "auto",
    cohort: MovedCohort = None,
    config: ConfigOption = None,
) -> None:
    """Measure a model on slides of another place: frozen threshold, intervals by patient, calibration, drift, subgroups.

    Slides that the model has seen are left out and counted. Run it again to score only what is missing. Example:
    `hnm validate model/ slides.csv --out validation/ --by site --recalibrate temperature --part 0.3 --alpha 0.1`
    """
    from launch.verbs import validate as verb

    request = verb.ValidateRequest(
        model, source, out, by or [], recalibrate, part, alpha, label_column, slides_csv, assume_mpp, batch_size, workers,
        device, cohort, config, overrides or [],
    )  # fmt: skip
    finish(lambda: verb.validate(request))
