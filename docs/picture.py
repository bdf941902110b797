"""Draw the README's picture from a finished demo: `python docs/picture.py hnm-demo docs/demo.png`."""

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import shapely

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from hnm.evidence.evaluate import read_metrics
from hnm.mining.coordinator import load_mined, read_scores
from hnm.run_rounds import round_folder
from launch.verbs.demo import ARMS, decisions_of
from shards.cohort.annotations import read_annotation
from shards.cohort.cohort import Cohort
from shards.cohort.slides import read_slides
from shards.reading.reader import PatchReader, ReaderConfig
from shards.tiling.slide_reader import open_slide

TRUTH, OUTLINE, MIMIC = "#0b7a75", "#f4c20d", "#d81b60"
ROWS, COLUMNS = 4, 6  # of the hardest negatives


def main(demo: Path, out: Path) -> None:
    """Show a test slide with its outlines, its patch scores, its hardest negatives, and what rounds change."""
    cohort, run = Cohort.open(demo / "cohort"), demo / "run"
    chosen = np.flatnonzero((cohort.splits() == "test") & (cohort.labels() == 1))[0]
    figure, (truth, heat, hard, rounds) = plt.subplots(1, 4, figsize=(14.6, 3.9), layout="constrained")
    show_slide(cohort, int(chosen), np.load(run / "patch_scores.npy"), demo / "slides" / "slides.csv", (truth, heat))
    truth.set_title("test slide: tumour (yellow), mimics (red)", fontsize=11)
    bar = figure.colorbar(plt.cm.ScalarMappable(cmap="cividis"), ax=heat, shrink=0.8)
    bar.set_label("patch score")
    heat.set_title("patch scores, from slide labels alone", fontsize=11)
    show_hardest(cohort, round_folder(run, read_metrics(run)["chosen_round"]), hard)
    hard.set_title(f"the {ROWS * COLUMNS} hardest negatives at last; red: mimics", fontsize=11)
    show_rounds({name: decisions_of(demo / folder) for name, folder in ARMS.items()}, rounds)
    for axes in (truth, heat, hard):
        axes.set_axis_off()
    figure.savefig(out, dpi=110)
    print(f"wrote {out} (round {read_metrics(run)['chosen_round']})")


def show_slide(cohort: Cohort, index: int, scores: np.ndarray, slides_csv: Path, panels: tuple[plt.Axes, ...]) -> None:
    """Draw slide number `index` twice: with truth on it, and with the patch scores on it."""
    slide = read_slides(slides_csv)[index]
    with open_slide(slide.path) as reader:
        image = reader.read(0, 0, reader.width, reader.width)  # square, and small enough to be read whole
    level0 = cohort.info["settings"]["patch_px"]  # drawn at the mpp at which it is cut
    for axes in panels:
        axes.imshow(image)
    for patch in range(*cohort.patch_bounds[index : index + 2]):
        corner = (cohort.patches.x_level0[patch], cohort.patches.y_level0[patch])
        if cohort.patches.truth[patch] == 1:
            panels[0].add_patch(Rectangle(corner, level0, level0, fill=False, edgecolor=TRUTH, linewidth=1.4))
        shade = plt.get_cmap("cividis")(scores[patch])
        panels[1].add_patch(Rectangle(corner, level0, level0, facecolor=shade, alpha=0.72, linewidth=0))
    assert slide.annotation is not None
    for group, colour in (("Tumor", OUTLINE), ("Mimic", MIMIC)):
        for part in shapely.get_parts(read_annotation(slide.annotation, [], [group], False).area):
            for axes in panels:
                axes.plot(*part.exterior.xy, color=colour, linewidth=1.8)


def show_hardest(cohort: Cohort, folder: Path, axes: plt.Axes) -> None:
    """Draw the patches of negative training slides which the round in `folder` scored highest; mimics are framed."""
    assert cohort.mimics is not None
    negatives, scores = load_mined(folder).negatives, read_scores(folder)
    hardest = negatives[np.argsort(-scores[negatives])][: ROWS * COLUMNS]
    with PatchReader(cohort, ReaderConfig()) as reader:
        patches = reader.read(hardest).permute(0, 2, 3, 1).numpy()
    side = patches.shape[1]
    rows = patches.reshape(ROWS, COLUMNS, *patches.shape[1:])
    axes.imshow(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))
    for place in np.flatnonzero(cohort.mimics[hardest]):
        corner = (place % COLUMNS * side + 0.5, place // COLUMNS * side + 0.5)
        axes.add_patch(Rectangle(corner, side - 2, side - 2, fill=False, edgecolor=MIMIC, linewidth=2))


def show_rounds(decisions: dict[str, list[dict[str, Any]]], axes: plt.Axes) -> None:
    """Draw how well patches of the validation slides are told apart, by round: negatives mined (lines) and at random (dashes)."""
    for (name, of_rounds), line in zip(decisions.items(), ("-", "--"), strict=True):
        for figure, words, colour in (
            ("validation_instance_auc", "tumour against all others", TRUTH),
            ("validation_mimic_auc", "tumour against mimics", MIMIC),
        ):
            axes.plot([d[figure] for d in of_rounds], line, marker="o", color=colour, label=f"{words}, {name}")
    axes.set_xticks(range(max(map(len, decisions.values()))))
    axes.set(xlabel="round", ylabel="patch AUC", title="what the rounds change")
    axes.set_ylim(0.5, 1)
    axes.legend(fontsize=8, loc="lower right")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
