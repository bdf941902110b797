"""`hnm demo`: the whole way on drawn whole slides, by the very commands that a user would type.

    slides with mimics ──tile──▶ cohort ──pretrain──▶ encoder ─┬─train────────────────────────▶ run ──evaluate──▶ report
                                                               └─train, negatives at random──▶ random
                                                                        both, round by round ──▶ the table at the end

A mimic is tissue in every slide, positive or not, that is drawn as a tumour is but for paler nuclei.
"""

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from launch.process.local import run_child
from launch.process.preemption import StopSignals
from shards.drawn.drawn_slides import make_whole_slides
from shards.errors import InputError

NUM_SLIDES, SIDE_PX, PATCH_PX = 80, 352, 32  # patches as in configs/demo.yaml
MIMIC_SHARE = 0.05
# a share of hard ones no larger than mining.neg_ratio is no preference: an epoch's negatives are drawn from all
AT_RANDOM = "mining.hard_share=0.1"
FIGURES = (
    ("patch AUC", "validation_instance_auc"),
    ("tumour against mimics", "validation_mimic_auc"),
    ("mimics among the hardest", "mimic_share_hardest"),
)
ARMS = {"mined": "run", "random": "random"}  # folder by how negatives were chosen


def run(folder: Path, ranks: int) -> int:
    """Draw slides into `folder`, tile, pretrain, train with mined and with random negatives, and evaluate on `ranks` processes.

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
        console.print(f"drawing {NUM_SLIDES} small whole slides, tumours and mimics outlined, into {slides_csv.parent}")
        draw_slides(slides_csv.parent, NUM_SLIDES)
    with StopSignals(is_quiet=True) as signals:
        for command in commands(folder, ranks):
            console.print(f"\n[bold]$ hnm {' '.join(command)}[/bold]")
            if code := run_child(command, signals):
                return code
    console.print()
    console.print(rounds_table({name: decisions_of(folder / run_folder) for name, run_folder in ARMS.items()}))
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
    shares = {"tissue_share": 0.55, "tumour_share": 0.2, "mimic_share": MIMIC_SHARE}
    return make_whole_slides(folder, num_slides, SIDE_PX, PATCH_PX, seed=0, **shares)


def commands(folder: Path, ranks: int) -> list[list[str]]:
    """Return the demo's commands, without the leading `hnm`."""
    cohort, pretrained, run_folder = (str(folder / name) for name in ("cohort", "pretrained", "run"))
    common = ["--config", "demo", "--ranks", str(ranks)]
    with_encoder = ["--encoder", f"{pretrained}/encoder.safetensors", *common]
    return [
        ["tile", str(folder / "slides" / "slides.csv"), cohort, "--config", "demo"],
        ["pretrain", cohort, pretrained, *common],
        ["train", cohort, run_folder, *with_encoder],
        ["train", cohort, str(folder / "random"), *with_encoder, AT_RANDOM],
        ["evaluate", run_folder, "--ranks", str(ranks)],
    ]


def decisions_of(run_folder: Path) -> list[dict[str, Any]]:
    """Return the mining.json of each round of a run that is done."""
    from hnm.run.checksums import read_json  # imports torch, which the commands before have to themselves

    return [read_json(path, "hnm train") for path in sorted(run_folder.glob("round-*/mining.json"))]


def rounds_table(decisions: dict[str, list[dict[str, Any]]]) -> Table:
    """Return what the rounds change, where negatives are mined and where they are drawn at random.

    Args:
        decisions: by arm, a round's mining.json each; as many in each arm.
    """
    table = Table(title="negatives mined and at random: AUC of validation patches; share of mimics in training slides")
    table.add_column("round", justify="right")
    for heading, _ in FIGURES:
        for arm in decisions:
            table.add_column(f"{heading}: {arm}", justify="right")
    for number, of_round in enumerate(zip(*decisions.values(), strict=True)):
        table.add_row(str(number), *(f"{decision[name]:.3f}" for _, name in FIGURES for decision in of_round))
    return table
