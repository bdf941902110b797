"""Draw the README's picture from a finished demo: `python docs/picture.py hnm-demo docs/demo.png`."""

import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from PIL import Image

from hnm.coordinator import load_mined
from hnm.evaluate import read_metrics
from hnm.rounds import round_folder
from shards.cohort import Cohort
from shards.reader import PatchReader, ReaderConfig


def main(demo: Path, out: Path) -> None:
    """Show a test slide with its true tumour patches, the patch scores, and the hardest negatives of the first round."""
    cohort, run = Cohort.open(demo / "cohort"), demo / "run"
    scores, px = np.load(run / "patch_scores.npy"), cohort.info["settings"]["patch_px"]
    slides = np.flatnonzero((cohort.splits() == "test") & (cohort.labels() == 1))
    slide = int(slides[0])
    ids = np.arange(*cohort.patch_bounds[slide : slide + 2])
    figure, (truth, heat, hard) = plt.subplots(1, 3, figsize=(11, 3.9), layout="constrained")
    image = Image.open(cohort.slides["path"][slide].as_py())
    for axes in (truth, heat):
        axes.imshow(image)
    for patch in ids:
        corner = (cohort.patches.x_level0[patch], cohort.patches.y_level0[patch])
        if cohort.patches.truth[patch] == 1:
            truth.add_patch(Rectangle(corner, px, px, fill=False, edgecolor="#0b7a75", linewidth=1.6))
        shade = plt.get_cmap("cividis")(scores[patch])
        heat.add_patch(Rectangle(corner, px, px, facecolor=shade, alpha=0.72, linewidth=0))
    truth.set_title("test slide; outlined: true tumour", fontsize=11)
    bar = figure.colorbar(plt.cm.ScalarMappable(cmap="cividis"), ax=heat, shrink=0.8)
    bar.set_label("patch score")
    heat.set_title("patch scores, from slide labels alone", fontsize=11)
    chosen = read_metrics(run)["chosen_round"]
    mined = load_mined(round_folder(run, 0))
    first = np.load(round_folder(run, 0) / "scores.npy")
    hardest = mined.negatives[np.argsort(-first[mined.negatives])][:30]
    with PatchReader(cohort, ReaderConfig()) as reader:
        patches = reader.read(hardest).permute(0, 2, 3, 1).numpy()
    hard.imshow(np.concatenate([np.concatenate(list(row), axis=1) for row in patches.reshape(5, 6, px, px, 3)]))
    hard.set_title("the 30 hardest negatives of the cohort", fontsize=11)
    for axes in (truth, heat, hard):
        axes.set_axis_off()
    figure.savefig(out, dpi=110)
    print(f"wrote {out} (round {chosen})")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
