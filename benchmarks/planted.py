"""Problems whose answer is known: does fine-tuning on slide labels gain where it must, and nothing where nothing is to be had?

    python -m benchmarks.planted [--seeds 2] [--jobs 2] [--quick] [--work FOLDER] [--out FILE]

Drawn slides (shards/drawn), alike in all but one thing: where a positive slide has tumour, a negative one has mimics of it, the
same nuclei with smooth chromatin instead of coarse. SimCLR hardly sees the grain, for views are blurred: of two frozen encoders
one told it a little (test AUC 0.71, the other 0.47). Blurring every view and not 30 % of them made that no weaker (0.74 and
0.80, the same seeds). The slides' labels can teach it.

    texture    `slide` must beat `frozen`: the interval of the difference in test AUC lies above 0
    permuted   the same slides, labels dealt out anew within each split: the interval of either arm's AUC holds 0.5

Each seed draws a cohort of its own and pretrains one encoder, which both arms and both problems start from; `slide` is the preset
with a schedule for a small network from scratch, `frozen` the preset, with the same aggregator and its settings. Intervals: 95 %,
test slides drawn with replacement within each seed, the same for both arms, means over seeds. The settings were chosen on the
validation slides of seed 100, which is not among those that count. Run again with the same --work, it does what is missing.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.about import about
from hnm.config import load_config
from hnm.evidence.compare import Tested, read_test_scores, require_same_slides
from hnm.evidence.evaluate import read_metrics
from hnm.statistics.bootstrap import bootstrap_intervals
from hnm.statistics.metrics import auc
from shards.cohort.cohort_table import write_csv
from shards.drawn.rows import name_slides
from shards.drawn.synthetic import CLASS_OF_TISSUE, MIMIC, TUMOUR, draw_slide, lay_out_tissue
from shards.files import write_json
from shards.seeding import numpy_generator
from shards.tiling.tile import tile_cohort

PROBLEMS = {"texture": "label", "permuted": "label_permuted"}  # and the column of their labels
ARMS = ("frozen", "slide")
SIDE_TILES, PATCH_PX, TUMOUR_SHARE = 4, 32, 0.25  # a slide is 4 x 4 tiles, of which 4 are tumour or mimic
TILE = (f"tile.patch_px={PATCH_PX}", "tile.points_file=points.csv", "tile.positive_class=tumour")
COMMON = (
    *("device=cpu", "tracking.enabled=false", "encoder.stem=small", "encoder.norm=batch", "encoder.width=0.125"),
    *("encoder.projection_dim=32", "pretrain.batch_size=64", "pretrain.lr=1e-3", "pretrain.tau=0.2"),
    *("pretrain.augment.recipe=histology", "aggregate.epochs=40", "aggregate.pairs_per_step=4"),
    *("aggregate.lr=2e-3", "aggregate.halve_every_epochs=20", "aggregate.select=validation"),
)
SLIDE = (
    *("finetune.lr=2e-3", "finetune.augment.recipe=weak", "finetune.slide.aggregator_lr=2e-3"),
    *("finetune.slide.slides_per_step=4", "finetune.slide.patches_per_slide=16", "finetune.slide.patience=0"),
)
FULL = {"slides": (48, 32, 48), "pretrain_epochs": 4, "finetune_epochs": 8}
QUICK = {"slides": (12, 8, 8), "pretrain_epochs": 1, "finetune_epochs": 1}


def make_cohort(folder: Path, sizes: tuple[int, int, int], seed: int) -> Path:
    """Draw and cut a cohort of so many training, validation and test slides; slides.csv gets a column of permuted labels."""
    if (folder / "cohort" / "cohort.json").is_file():
        return folder / "cohort"
    rows, points, images = name_slides(sum(sizes), seed, split_sizes=sizes), [], folder / "slides" / "images"
    images.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        random = numpy_generator(seed, "planted slide", number)
        tissue = lay_out_tissue(SIDE_TILES, TUMOUR_SHARE, True, random)
        tissue[(tissue == TUMOUR) & (row.label == 0)] = MIMIC
        draw_slide(tissue, PATCH_PX, random).save(images / f"{row.name}.png")
        for down, across in np.ndindex(tissue.shape):
            word = CLASS_OF_TISSUE.get(int(tissue[down, across]), "normal")
            points.append((row.name, (across + 0.5) * PATCH_PX, (down + 0.5) * PATCH_PX, word))
    write_csv(folder / "slides" / "points.csv", ("image", "x", "y", "class"), points)
    permuted = permute([row.label for row in rows], [row.split for row in rows], seed)
    columns = ("slide_id", "path", "label", "label_permuted", "patient_id", "split")
    table = [
        (row.name, f"images/{row.name}.png", row.label, other, row.patient, row.split)
        for row, other in zip(rows, permuted, strict=True)
    ]
    slides = write_csv(folder / "slides" / "slides.csv", columns, table)
    tile_cohort(slides, folder / "cohort", load_config(overrides=list(TILE)).tile)
    return folder / "cohort"


def permute(labels: list[int], splits: list[str], seed: int) -> list[int]:
    """Return the labels dealt out anew within each split."""
    generator, dealt = numpy_generator(seed, "permuted labels"), np.array(labels)
    for split in sorted(set(splits)):
        places = np.flatnonzero(np.array(splits) == split)
        dealt[places] = dealt[generator.permutation(places)]
    return [int(label) for label in dealt]


def settings_of(arm: str, column: str, plan: dict[str, Any], seed: int) -> list[str]:
    """Return the settings of an arm's training."""
    epochs = plan["finetune_epochs"]
    schedule = [f"finetune.epochs_per_round={epochs}", f"finetune.cosine_after_epoch={epochs // 2}"]
    own = [*SLIDE, *schedule] if arm == "slide" else []
    return [*COMMON, *own, f"pretrain.epochs={plan['pretrain_epochs']}", f"data.label_column={column}", f"seed={seed}"]


def run_seed(folder: Path, plan: dict[str, Any], seed: int) -> None:
    """Train and evaluate both arms on both problems of one seed, as far as they are not yet."""
    import torch

    from launch.verbs import train as verbs

    torch.set_num_threads(1)
    begin = time.process_time()
    cohort, pretrained = make_cohort(folder, plan["slides"], seed), folder / "pretrained"
    verbs.pretrain(cohort, pretrained, None, settings_of("frozen", "label", plan, seed), ranks=1)
    for problem, column in PROBLEMS.items():
        for arm in ARMS:
            run = folder / problem / arm
            if not (run / "metrics.json").is_file():
                run.parent.mkdir(exist_ok=True)
                settings = settings_of(arm, column, plan, seed)
                verbs.train(cohort, run, pretrained / "encoder.safetensors", None, arm, settings, ranks=1)
                verbs.evaluate(run, None, ranks=1, with_report=False)
    write_json(folder / "cpu_seconds.json", {"cpu_seconds": round(time.process_time() - begin, 1)})


def compare_arms(tested: dict[str, list[Tested]], seed: int = 0) -> dict[str, Any]:
    """Return the mean test AUC over seeds of either arm and of the difference, with intervals.

    Args:
        tested: by arm its test slides of each seed.
    """
    for pair in zip(*tested.values(), strict=True):
        require_same_slides(*(one.slides for one in pair))
    first = tested[ARMS[0]]
    labels = np.concatenate([one.slides.labels for one in first])
    of_seed = np.repeat(np.arange(len(first)), [len(one.scores) for one in first])
    scores = {arm: np.concatenate([one.scores for one in its]) for arm, its in tested.items()}

    def figures(rows: np.ndarray) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for arm, of_arm in scores.items():
            aucs = [auc(labels[its], of_arm[its]) for its in (rows[of_seed[rows] == number] for number in range(len(first)))]
            found[arm] = None if None in aucs else float(np.mean([value for value in aucs if value is not None]))
        frozen, slide = (found[arm] for arm in ARMS)
        return {**found, "slide_minus_frozen": None if frozen is None or slide is None else slide - frozen}

    groups = np.arange(len(labels))
    intervals = bootstrap_intervals(figures, labels, groups, 2000, seed=seed)
    values = figures(groups)
    return {name: {"auc": values[name], "low": intervals[name].low, "high": intervals[name].high} for name in values}


def summary(folders: list[Path]) -> dict[str, Any]:
    """Return the figures of both problems and whether each answer is the known one."""
    result: dict[str, Any] = {}
    for problem in PROBLEMS:
        tested = {arm: [read_test_scores(folder / problem / arm) for folder in folders] for arm in ARMS}
        result[problem] = compare_arms(tested)
        metrics = [read_metrics(folder / problem / "slide") for folder in folders]
        result[problem]["by_seed"] = {arm: [round(one.metrics["slide"]["auc"], 4) for one in its] for arm, its in tested.items()}
        result[problem]["chosen_round"] = [its["chosen_round"] for its in metrics]
        result[problem]["validation_says"] = [its["gain"]["says"] for its in metrics]
    permuted = [result["permuted"][arm] for arm in ARMS]
    result["slide_beats_frozen"] = result["texture"]["slide_minus_frozen"]["low"] > 0
    result["permuted_gains_nothing"] = all(its["low"] <= 0.5 <= its["high"] for its in permuted)
    result["cpu_seconds"] = [json.loads((folder / "cpu_seconds.json").read_text())["cpu_seconds"] for folder in folders]
    return result


def main() -> None:
    """Parse the command line, run what is missing, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="a cohort and an encoder each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="seeds at a time, one thread each")
    parser.add_argument("--quick", action="store_true", help="one seed of few slides: whether it runs, not what it shows")
    parser.add_argument("--work", type=Path, help="folder that is kept; default: a temporary one")
    parser.add_argument("--out", type=Path, help="also write the result here")
    args = parser.parse_args()
    seeds, plan = (args.seeds[:1], QUICK) if args.quick else (args.seeds, FULL)
    os.environ["OMP_NUM_THREADS"] = "1"
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folders = [(args.work or Path(temporary)) / f"seed-{seed}" for seed in seeds]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
            pool.starmap(run_seed, [(folder, plan, seed) for folder, seed in zip(folders, seeds, strict=True)], chunksize=1)
        result = {**about("planted", args.quick, ("torch",)), "seeds": seeds, "plan": plan, **summary(folders)}
    result["seconds"] = round(time.monotonic() - begin)
    print(json.dumps(result))
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
