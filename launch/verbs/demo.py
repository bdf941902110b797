"""`hnm demo`: the whole way on drawn whole slides, by the very commands that a user would type."""

import time
from pathlib import Path

from rich.console import Console

from launch.process.local import run_child
from launch.process.preemption import StopSignals
from shards.drawn.drawn_slides import make_whole_slides
from shards.errors import InputError

NUM_SLIDES, SIDE_PX, PATCH_PX = 80, 352, 32  # patches as in configs/demo.yaml


def run(folder: Path, ranks: int) -> int:
    """Draw slides into `folder`, tile, pretrain, train two rounds and evaluate on `ranks` processes.

    Raises:
        InputError: the folder is there and is not an earlier demo.
        Preempted: it was asked to stop; the same command goes on there.
    """
    slides_csv = folder / "slides" / "slides.csv"
    if folder.exists() and any(folder.iterdir()) and not slides_csv.is_file():
        raise InputError(f"{folder}: exists and is no demo folder. Name another: hnm demo FOLDER")
    console = Console(highlight=False, soft_wrap=True)
    begin = time.monotonic()
    if not slides_csv.is_file():
        console.print(f"drawing {NUM_SLIDES} small whole slides, tumours outlined, into {slides_csv.parent}")
        draw_slides(slides_csv.parent, NUM_SLIDES)
    with StopSignals(is_quiet=True) as signals:
        for command in commands(folder, ranks):
            console.print(f"\n[bold]$ hnm {' '.join(command)}[/bold]")
            if code := run_child(command, signals):
                return code
    console.print(
        f"\nthe demo took {time.monotonic() - begin:.0f} s. Look at {folder}/run/report.html. What to try next:\n"
        f"  hnm train {folder}/cohort {folder}/its2clr --preset its2clr --config demo --ranks {ranks} "
        f"--encoder {folder}/pretrained/encoder.safetensors\n"
        f"  hnm evaluate {folder}/its2clr\n"
        f"  hnm predict {folder}/run {folder}/slides/slides/*.tif* --out {folder}/predictions\n"
        f"  hnm ui {folder}/run     (the same figures in MLflow)\n"
        "  hnm tile slides.csv cohort/     (your own slides: columns slide_id, path, label)"
    )
    return 0


def draw_slides(folder: Path, num_slides: int) -> Path:
    """Draw slides that `--config demo` suits into `folder`; return their slides.csv."""
    return make_whole_slides(folder, num_slides, SIDE_PX, PATCH_PX, seed=0, tissue_share=0.55, tumour_share=0.2)


def commands(folder: Path, ranks: int) -> list[list[str]]:
    """Return the demo's commands, without the leading `hnm`."""
    cohort, pretrained, run_folder = (str(folder / name) for name in ("cohort", "pretrained", "run"))
    common = ["--config", "demo", "--ranks", str(ranks)]
    return [
        ["tile", str(folder / "slides" / "slides.csv"), cohort, "--config", "demo"],
        ["pretrain", cohort, pretrained, *common],
        ["train", cohort, run_folder, "--encoder", f"{pretrained}/encoder.safetensors", *common],
        ["evaluate", run_folder, "--ranks", str(ranks)],
    ]
