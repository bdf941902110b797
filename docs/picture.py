"""Draw the README's picture from a finished demo: `python docs/picture.py hnm-demo docs/demo.png`."""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import shapely

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from hnm.evidence.evaluate import read_metrics
from hnm.mining.coordinator import load_mined, read_scores
from hnm.run_rounds import round_folder
from shards.cohort.annotations import read_annotation
from shards.cohort.cohort import Cohort
from shards.cohort.slides import read_slides
from shards.reading.reader import PatchReader, ReaderConfig
from shards.tiling.slide_reader import open_slide

TRUTH, OUTLINE = "#0b7a75", "#f4c20d"


def main(demo: Path, out: Path) -> None:
    """Show a test slide with its outlined tumour, the patch scores, and the hardest negatives of the first round."""
    cohort, run = Cohort.open(demo / "cohort"), demo / "run"
    chosen = np.flatnonzero((cohort.splits() == "test") & (cohort.labels() == 1))[0]
    figure, (truth, heat, hard) = plt.subplots(1, 3, figsize=(11, 3.9), layout="constrained")
    show_slide(cohort, int(chosen), np.load(run / "patch_scores.npy"), demo / "slides" / "slides.csv", (truth, heat))
    truth.set_title("test slide: outlined tumour, its patches", fontsize=11)
    bar = figure.colorbar(plt.cm.ScalarMappable(cmap="cividis"), ax=heat, shrink=0.8)
    bar.set_label("patch score")
    heat.set_title("patch scores, from slide labels alone", fontsize=11)
    hard.imshow(hardest_negatives(cohort, round_folder(run, 0)))
    hard.set_title("the 30 hardest negatives of the cohort", fontsize=11)
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
    for tumour in shapely.get_parts(read_annotation(slide.annotation, [], None, False).area):
        for axes in panels:
            axes.plot(*tumour.exterior.xy, color=OUTLINE, linewidth=1.8)


def hardest_negatives(cohort: Cohort, folder: Path) -> np.ndarray:
    """Return 5 x 6 patches of negative slides, (h, w, 3) uint8, which the round in `folder` scored highest."""
    negatives, scores = load_mined(folder).negatives, read_scores(folder)
    with PatchReader(cohort, ReaderConfig()) as reader:
        patches = reader.read(negatives[np.argsort(-scores[negatives])][:30]).permute(0, 2, 3, 1).numpy()
    rows = patches.reshape(5, 6, *patches.shape[1:])
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
