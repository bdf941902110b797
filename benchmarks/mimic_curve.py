"""Does mining hard negatives pay, and does its gain grow with what there is to mistake? The question: docs/evidence-plan.md.

    python -m benchmarks.mimic_curve COLON_COHORT WORK [--seeds 0 1 2 3 4] [--rates 0 0.005 0.01 0.02 0.05] [--arms ...]
                                     [--controls permuted mixed random_encoder] [--budget seconds=60] [--jobs 2]
                                     [--minutes 55] [--quick] [--figure FILE]

COLON_COHORT is benchmarks.prepare_colon's table, cut by `hnm tile --config colon`; WORK is kept, and the same command does what
is missing. Each seed and rate of mimics has a cohort of its own (benchmarks/mimic_cohort.py) and one SimCLR encoder, which all
arms start from:

    frozen     no fine-tuning                        its2clr    all negatives, self-paced
    random     a fifth of the negatives, at random   slide      end to end on the labels of slides, random patches
    hardest    as many, the hardest                  hnm-slide  a third hard, and the slide loss on weighted patches
    third      as many, a third of them the hardest

for the same seconds of fine-tuning. Test slides are read once, when an arm is done. --minutes begins no arm after so long.
The last line is JSON; --figure draws test AUC over the rate of mimics, with bands.
"""

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path

from benchmarks.about import about
from benchmarks.mimic_cohort import make_cohort, pools_of
from benchmarks.mimic_figures import draw, summarise
from shards.cohort.cohort import Cohort
from shards.files import write_json

RATES = (0.0, 0.005, 0.01, 0.02, 0.05)
MINING = ("mining.neg_ratio=0.2", "mining.candidates_per_slide=0.05", "mining.ties=exact")
ARMS: dict[str, tuple[str, ...]] = {  # preset, and what differs
    "frozen": ("frozen",),
    "random": ("hnm", *MINING, "mining.hard_share=0.2"),  # the share that a draw of all negatives has of the fifth
    "hardest": ("hnm", *MINING, "mining.hard_share=1"),
    "third": ("hnm", *MINING, "mining.hard_share=0.3333"),
    "its2clr": ("its2clr",),
    "slide": ("slide",),
    "hnm-slide": ("hnm-slide",),
}
CONTROLS = ("permuted", "mixed", "random_encoder")
CONTROL_RATE = 0.02  # of mimics, in the null controls
CONTROL_ARMS = ("frozen", "random", "third", "slide")
COMMON = (
    *("device=cpu", "tracking.enabled=false", "encoder.stem=small", "encoder.norm=batch", "encoder.width=0.125"),
    *("encoder.projection_dim=32", "pretrain.batch_size=128", "pretrain.lr=1e-3", "pretrain.tau=0.2"),
    "pretrain.augment.recipe=histology",
    *("aggregate.kind=abmil_gated", "aggregate.num_members=1", "aggregate.ranking_weight=0.0", "aggregate.epochs=40"),
    *("aggregate.pairs_per_step=4", "aggregate.lr=2e-3", "aggregate.halve_every_epochs=20", "aggregate.select=validation"),
)
TUNING = (
    *("rounds.num_rounds=8", "finetune.lr=2e-3", "finetune.optimizer=adamw", "finetune.epochs_per_round=2"),
    *("finetune.cosine_after_epoch=100", "finetune.batch_size=128", "finetune.augment.recipe=weak", "finetune.warmup_epochs=0"),
    *("finetune.slide.aggregator_lr=2e-3", "finetune.slide.slides_per_step=4", "finetune.slide.patches_per_slide=64"),
    "finetune.slide.patience=0",
)
FULL, QUICK = ((300, 100, 200), 3), ((12, 8, 8), 1)  # slides of train, validation and test, and epochs of pretraining


def plan_of(args: argparse.Namespace) -> list[tuple[Path, float, int, str, tuple[str, ...]]]:
    """Return (folder, rate, seed, control, arms) of each cohort, the seeds one after the other."""
    found = []
    for seed in args.seeds:
        for rate in args.rates:
            found.append((args.work / f"seed-{seed}" / f"mimic-{rate:g}", rate, seed, "", tuple(args.arms)))
        for control in args.controls:
            arms = tuple(arm for arm in args.arms if arm in CONTROL_ARMS)
            found.append((args.work / f"seed-{seed}" / f"control-{control}", CONTROL_RATE, seed, control, arms))
    return found


def run_cohort(task: tuple[Path, float, int, str, tuple[str, ...]], colon: Path, args: argparse.Namespace, end: float) -> None:
    """Make a cohort and its encoder, train and evaluate its arms, as far as they are not there and there is time."""
    import torch

    from hnm.config import load_config
    from hnm.encoder.contrastive_model import fresh_model, save_model
    from launch.verbs import train as verbs

    torch.set_num_threads(1)
    folder, rate, seed, control, arms = task
    sizes, pretrain_epochs = QUICK if args.quick else FULL
    if time.time() > end or all((folder / arm / "metrics.json").is_file() for arm in arms):
        return
    cohort = make_cohort(folder, pools_of(Cohort.open(colon), seed), sizes, rate, seed, control == "mixed")
    column = "label_permuted" if control == "permuted" else "label"
    common = [*COMMON, f"pretrain.epochs={pretrain_epochs}", f"data.label_column={column}", f"seed={seed}"]
    encoder = folder / "pretrained" / "encoder.safetensors"
    if control == "random_encoder":
        config = load_config(None, "frozen", common)
        encoder.parent.mkdir(exist_ok=True)
        save_model(encoder, fresh_model(config.encoder, seed), {})
    else:
        verbs.pretrain(cohort, folder / "pretrained", None, common, ranks=1)
    for arm in arms:
        run = folder / arm
        if (run / "metrics.json").is_file() or time.time() > end:
            continue
        preset, *own = ARMS[arm]
        settings = [*common, *(() if arm == "frozen" else (*TUNING, f"rounds.budget={args.budget}")), *own]
        verbs.train(cohort, run, encoder, None, preset, settings, ranks=1)
        verbs.evaluate(run, None, ranks=1, with_report=False)


def main() -> None:
    """Parse the command line, run what is missing, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("colon", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="mimics among the patches of every slide")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--controls", nargs="*", choices=CONTROLS, default=list(CONTROLS))
    parser.add_argument("--budget", default="seconds=60", help="of each arm's fine-tuning, as rounds.budget")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cohorts at a time, one thread each")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no arm after so long")
    parser.add_argument("--quick", action="store_true", help="one seed, two rates, a few slides: whether it runs")
    parser.add_argument("--out", type=Path, help="also write the result here; its name must hold 'mimic'")
    parser.add_argument("--figure", type=Path, help="draw test AUC over the rate of mimics")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.rates, args.controls, args.budget = args.seeds[:1], [0.0, 0.05], ["mixed"], "epochs=1"
    os.environ["OMP_NUM_THREADS"] = "1"
    begin, tasks = time.time(), plan_of(args)
    for task in tasks:
        task[0].mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        pool.starmap(run_cohort, [(task, args.colon, args, begin + 60 * args.minutes) for task in tasks], chunksize=1)
    result = {**about("mimic_curve", args.quick, ("torch",)), "seeds": args.seeds, "budget": args.budget}
    result |= {"settings": [*COMMON, *TUNING], "arms": ARMS, **summarise(tasks), "seconds": round(time.time() - begin)}
    print(json.dumps(result))
    if args.out:
        write_json(args.out, result)
    if args.figure:
        draw(result, args.figure)


if __name__ == "__main__":
    main()
