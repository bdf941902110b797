"""`hnm predict`, `hnm export`: what these verbs accept; what they do is in launch/verbs/predict_targets.py and predict.py."""

from pathlib import Path
from typing import Annotated

import typer

from launch.cli.options import MovedCohort, finish


def predict(
    model: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="Run directory, or folder that hnm export wrote.")],
    slides: Annotated[
        list[Path],
        typer.Argument(
            metavar="SLIDES...", help="Slide files, or tables (.csv) with slide_id, path[, label, mpp, annotation]."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder to write.")] = Path("predictions"),
    points: Annotated[
        Path | None, typer.Option(help="CSV with image,x,y,class: cut patches at these points, not on a grid.")
    ] = None,
    assume_mpp: Annotated[float | None, typer.Option(help="Microns per pixel of slides that don't tell.")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Slides are positive from here on; default: the validation slides'."),
    ] = None,
    patch_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Likewise for patches: polygons, outlines, counts.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Patches a forward pass.")] = 64,
    workers: Annotated[int, typer.Option("--workers", "-w", min=0, help="Threads that read; 0 = one per core.")] = 0,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where the model runs.")] = "auto",
    cohort: MovedCohort = None,
) -> None:
    """Score new slides: predictions.parquet, patch scores, heatmaps, and polygons for QuPath. No cohort is needed.

    Run it again to do only what is missing. Example: `hnm predict run/ slides/*.svs --out predictions/`
    """
    from launch.verbs import predict_targets as verb
    from launch.verbs.predict import PredictRequest

    request = PredictRequest(
        model, slides, out, points, assume_mpp, threshold, patch_threshold, batch_size, workers, device, cohort
    )
    finish(lambda: verb.predict(request))


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Finished run directory.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Fold LoRA adapters into the encoder: whole weights, also of a base that is gated.")
    ] = False,
    cohort: MovedCohort = None,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Also encoder.onnx and aggregator.onnx, checked with onnxruntime.")
    ] = False,
    hub: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also a folder that timm loads, as a hub would hold it.")
    ] = None,
) -> None:
    """Write a run's model for others: weights, configuration, thresholds and MODEL.md, a card that says what it is.

    Example: `hnm export run/ model/`, then on another machine `hnm predict model/ slides/*.svs`
    """
    from launch.verbs import predict_targets as verb

    finish(lambda: verb.export(run, folder, cohort, merge, onnx, hub))
