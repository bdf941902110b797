"""One run with two targets against a run for each: test AUC of each target, and the seconds after the first encoder.

    python -m benchmarks.targets [--quick] [--folder TMP] [KEY=VALUE ...]

Drawn slides (shards/drawn/synthetic.py) of two independent genes, half of the slides positive in each. Every slide has a
region: gene A makes 70 % of its tiles large and coarse, gene B 70 % elongated, drawn independently, so that in a slide positive
in both half of the tiles are both. 20 % of the labels of training and validation slides are missing, gene by gene. One encoder
is pretrained; from it start three runs of `hnm train` with the demo's settings: both genes together (data.targets), A, B. Each
is evaluated. `difference` is joint minus alone on the same test slides, with its 95 % interval by patient (bootstrap);
`seconds_ratio` is the joint run's computing over that of the two, without pretraining and evaluation. The last line is JSON.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.about import about
from hnm.config import load_config
from hnm.evidence.evaluate import read_metrics
from hnm.evidence.gain import paired_gain
from hnm.run.checksums import read_state
from launch.verbs import train as verbs
from shards.cohort.cohort_table import write_csv
from shards.drawn.synthetic import EPITHELIUM, NUCLEI, TUMOUR, Nuclei, draw_slide, lay_out_tissue
from shards.files import whole_file
from shards.seeding import numpy_generator
from shards.tiling.tile import tile_cohort

GENES = ("A", "B")
LONG, BOTH = 5, 6  # tissues: what gene B makes, and both genes
OF_GENES = {(0, 0): EPITHELIUM, (1, 0): TUMOUR, (0, 1): LONG, (1, 1): BOTH}
LOOKS = NUCLEI | {
    LONG: Nuclei(6.0, (2.7, 3.4), (3.0, 4.5), (0.8, 1.2), 0.05, 0.15, 0.85),
    BOTH: Nuclei(3.8, (4.0, 5.6), (2.6, 3.8), (0.95, 1.4), 0.16, 0.35, 0.85),
}
REGION, TOUCHED, MISSING = 0.25, 0.7, 0.2
SETTINGS = ["device=cpu", "tracking.enabled=false"]
QUICK = ["pretrain.epochs=1", "rounds.num_rounds=1", "aggregate.epochs=10", "finetune.epochs_per_round=2"]


def draw_cohort(folder: Path, num_slides: int, tiles_per_side: int, px: int) -> Path:
    """Draw and tile the cohort; of ten slides six train, two validate and two test."""
    rows: list[tuple[object, ...]] = []
    points: list[tuple[object, ...]] = []
    for number in range(num_slides):
        random, name = numpy_generator(0, "two genes", number), f"slide-{number:03d}"
        genes = [number & 1, number >> 1 & 1]
        tissue = lay_out_tissue(tiles_per_side, REGION, True, random)
        region = np.flatnonzero(tissue == TUMOUR)
        touched = [gene * (random.random(len(region)) < TOUCHED) for gene in genes]
        tissue.flat[region] = [OF_GENES[int(a), int(b)] for a, b in zip(*touched, strict=True)]
        with whole_file(folder / "images" / f"{name}.png") as temporary:
            draw_slide(tissue, px, random, nuclei=LOOKS).save(temporary, format="PNG", compress_level=3)
        points += [(name, (across + 0.5) * px, (down + 0.5) * px, "any") for down, across in np.ndindex(tissue.shape)]
        split = ("train", "validation", "test")[np.searchsorted((6, 8), number // 4 % 10, side="right")]
        labels = ["" if split != "test" and random.random() < MISSING else gene for gene in genes]
        rows.append((name, f"images/{name}.png", *labels, name, split))
    write_csv(folder / "points.csv", ("image", "x", "y", "class"), points)
    table = write_csv(folder / "slides.csv", ("slide_id", "path", "label_A", "label_B", "patient_id", "split"), rows)
    tile = [f"tile.patch_px={px}", "tile.points_file=points.csv"]
    tile_cohort(table, folder / "cohort", load_config(overrides=tile).tile)
    return folder / "cohort"


def run_and_judge(cohort: Path, run: Path, encoder: Path, overrides: list[str]) -> dict[str, Any]:
    """Train and evaluate a run; return its seconds and, by gene that it has learned, test AUC and scores."""
    assert verbs.train(cohort, run, encoder, "demo", None, overrides, ranks=1) == 0
    seconds = sum(done["seconds"] for done in read_state(run)["phases"] if done["phase"] != "pretrain")
    assert verbs.evaluate(run, None, ranks=1, with_report=False) == 0
    folders = {gene: run / "targets" / f"label_{gene}" for gene in GENES}
    if not folders["A"].is_dir():
        folders = {gene: run for gene in GENES if f"data.label_column=label_{gene}" in overrides}
    judged = {}
    for gene, folder in folders.items():
        table = pq.read_table(folder / "predictions.parquet", filters=[("split", "=", "test")])
        auc = read_metrics(folder)["slide"]["auc"]
        judged[gene] = {"auc": auc, "label": table["label"].to_numpy(), "score": table["score"].to_numpy()}
    return {"seconds": round(seconds, 1), "round": read_metrics(run)["chosen_round"], "genes": judged}


def compare(folder: Path, quick: bool, overrides: list[str]) -> dict[str, Any]:
    """Draw, pretrain, run three times; return the figures."""
    cohort = draw_cohort(folder, *(80, 6, 32) if quick else (240, 10, 32))
    settings = [*SETTINGS, *(QUICK if quick else []), *overrides]
    assert verbs.pretrain(cohort, folder / "pretrained", "demo", [*settings, "data.label_column=label_A"], 1) == 0
    encoder = folder / "pretrained" / "encoder.safetensors"
    joint = run_and_judge(cohort, folder / "joint", encoder, [*settings, "data.targets=[label_A, label_B]"])
    alone = {g: run_and_judge(cohort, folder / g, encoder, [*settings, f"data.label_column=label_{g}"]) for g in GENES}
    genes = {}
    for gene in GENES:
        ours, its = joint["genes"][gene], alone[gene]["genes"][gene]
        patients = np.arange(len(its["label"]))
        gain = paired_gain(its["label"], its["score"], ours["score"], patients, 1, 0)
        difference = {name: gain[name] for name in ("difference", "low", "high", "num_slides")}
        genes[gene] = {"auc_joint": ours["auc"], "auc_alone": its["auc"], **difference, "round_alone": alone[gene]["round"]}
    seconds = {"joint": joint["seconds"], **{f"alone_{gene}": run["seconds"] for gene, run in alone.items()}}
    ratio = joint["seconds"] / sum(run["seconds"] for run in alone.values())
    return {"genes": genes, "round_joint": joint["round"], "seconds": seconds, "seconds_ratio": round(ratio, 3)}


def main() -> None:
    """Parse the command line, compare, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer slides, one round: under a minute, says little of AUC")
    parser.add_argument("--folder", type=Path, default=None, help="where the files go for the time of the run")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of all three runs")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result = compare(Path(folder), args.quick, args.overrides)
    print(json.dumps({**about("targets", args.quick, ("numpy", "torch")), **result}))


if __name__ == "__main__":
    main()
