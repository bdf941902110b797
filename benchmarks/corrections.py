"""Does it help to set the worst false positives right (hnm cohort correct)? The patch AUC of the next round, with and without.

    python -m benchmarks.corrections [--quick] [--seeds 3] [--counts 10,40] [--folder TMP] [KEY=VALUE ...]

The demo's drawn slides (with mimics), one pretrained encoder, then one round of fine-tuning for each seed. Round 0 is scored, and
of the patches of positive training slides that are no tumour those with the highest scores are outlined as "Normal", a GeoJSON
file a slide as QuPath writes it, and given to `hnm cohort correct`. The same command trains again on the corrected cohort. Told
is the patch AUC of the validation slides in round 1, on which nobody has corrected anything, by seed, without and with.
The last line is JSON.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.about import about
from hnm.config import load_config
from hnm.mining.coordinator import read_decision, read_scores
from hnm.run.study import open_study
from hnm.run_rounds import round_folder
from launch.verbs import correct as correct_verb
from launch.verbs import train as verbs
from launch.verbs.demo import NUM_SLIDES, draw_slides
from shards.cohort.cohort import Cohort
from shards.files import write_json
from shards.tiling.mpp import patch_level0_of
from shards.tiling.tile import tile_cohort

SETTINGS = ["device=cpu", "tracking.enabled=false", "rounds.num_rounds=1"]


def make_cohort(folder: Path, quick: bool) -> Path:
    """Draw the demo's slides and cut them."""
    table = draw_slides(folder / "slides", 20 if quick else NUM_SLIDES)
    tile_cohort(table, folder / "cohort", load_config("demo").tile)
    return folder / "cohort"


def false_positives(cohort: Cohort, run: Path, seed: int, count: int) -> np.ndarray:
    """Return the patches of positive training slides that are no tumour and have the highest scores in round 0, worst first."""
    config = load_config("demo", None, [*SETTINGS, f"seed={seed}"])
    study, scores = open_study(cohort, config.data, seed), read_scores(round_folder(run, 0))
    positive = study.train[study.labels[study.train] == 1]
    patches = study.patches_of(positive)
    wrong = patches[cohort.patches.truth[patches] == 0]
    return wrong[np.argsort(-scores[wrong], kind="stable")[:count]]


def corrected(cohort: Cohort, ids: np.ndarray, folder: Path) -> Path:
    """Return a copy of the cohort, its pictures linked, whose patches `ids` were outlined as Normal."""
    shutil.copytree(cohort.root, folder / "cohort", ignore=shutil.ignore_patterns("shards"))
    (folder / "cohort" / "shards").symlink_to(cohort.root / "shards")
    files = []
    for slide in np.unique(cohort.patches.slide[ids]).tolist():
        side, features = patch_level0_of(cohort, slide), []
        for patch in ids[cohort.patches.slide[ids] == slide].tolist():
            x, y = int(cohort.patches.x_level0[patch]), int(cohort.patches.y_level0[patch])
            ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
            properties = {"objectType": "annotation", "classification": {"name": "Normal"}}
            features.append({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties})
        files.append(folder / f"{cohort.slide_ids[slide]}.geojson")
        write_json(files[-1], {"type": "FeatureCollection", "features": features})
    correct_verb.correct(folder / "cohort", files, ["Tumor"], ["Normal"], clear=False)
    return folder / "cohort"


def trained(cohort: Path, run: Path, encoder: Path, seed: int, settings: list[str]) -> dict[str, Any]:
    """Train one round and return what its mining told, at the end."""
    overrides = [*SETTINGS, f"seed={seed}", *settings]
    if verbs.train(cohort, run, encoder, "demo", None, overrides, 1):
        raise SystemExit(f"{run}: hnm train failed")
    return read_decision(round_folder(run, 1))


def measure(folder: Path, quick: bool, seeds: int, counts: list[int], settings: list[str]) -> dict[str, Any]:
    """Return the figures by seed and count of corrections."""
    opened = Cohort.open(make_cohort(folder, quick))
    if verbs.pretrain(opened.root, folder / "pretrained", "demo", [*SETTINGS[:2], *settings], 1, None):
        raise SystemExit("hnm pretrain failed")
    encoder, rows = folder / "pretrained" / "encoder.safetensors", []
    for seed in range(seeds):
        plain = folder / f"plain-{seed}"
        before = trained(opened.root, plain, encoder, seed, settings)
        first = read_decision(round_folder(plain, 0))
        for count in counts:
            place = folder / f"corrected-{seed}-{count}"
            ids = false_positives(opened, plain, seed, count)
            after = trained(corrected(opened, ids, place), place / "run", encoder, seed, settings)
            aucs = [one["validation_instance_auc"] for one in (first, before, after)]
            row = {"seed": seed, "corrected": count, "round_0": aucs[0], "plain": aucs[1], "with": aucs[2]}
            row["gain"] = aucs[2] - aucs[1]
            row["of_candidates"] = int(np.isin(ids, np.load(round_folder(plain, 0) / "candidates.npy")).sum())
            row["num_candidates"] = first["num_candidates"]
            rows.append({name: round(value, 4) for name, value in row.items()})
            print(json.dumps(rows[-1]), flush=True)
    mean = {count: round(float(np.mean([row["gain"] for row in rows if row["corrected"] == count])), 4) for count in counts}
    return {"num_patches": opened.num_patches, "mean_gain_of_patch_auc": mean, "rows": rows}


def main() -> None:
    """Parse the command line, measure, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer slides")
    parser.add_argument("--seeds", type=int, default=3, help="runs, each with its own seed")
    parser.add_argument("--counts", default="10,40", help="how many patches are corrected")
    parser.add_argument("--folder", type=Path, default=None, help="where the files go for the time of the run")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE")
    args = parser.parse_intermixed_args()
    counts = [int(count) for count in args.counts.split(",")]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result = measure(Path(folder), args.quick, args.seeds, counts, args.settings)
    print(json.dumps({**about("corrections", args.quick, ("numpy", "torch")), **result}))


if __name__ == "__main__":
    main()
