"""End-to-end attention MIL on the folds of a cross-validation: the encoder is trained by the bags' labels alone.

    python -m benchmarks.end_to_end CROSSVAL OUT (--steps N | --seconds S) [--share I/N] [--lr 5e-4] [--device cpu]

Gated attention MIL (Ilse et al., ICML 2018) on the encoder that each fold of CROSSVAL, an `hnm crossval` folder, started from:
the same folds, seeds and witness rate. A step takes one positive and one negative bag whole, each patch in one augmented view
(recipe of pretraining), Adam with a cosine to zero and weight decay 5e-4 as in the paper. Ten times in the course of a
training validation bags are scored; the state of highest validation AUC (then lowest loss) is the model, its threshold is
Youden's there, and it alone reads the test bags. `--seconds` lets the schedule follow the clock. OUT gets a metrics.json per
fold; folds that have one are not done again.
"""

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.step import wait
from hnm.aggregator.aggregate import pair_slides
from hnm.aggregator.baselines import AttentionMIL
from hnm.aggregator.dsmil import pack
from hnm.config import Config, read_config
from hnm.encoder.augment import augment, draw, to_float
from hnm.encoder.contrastive_model import load_model
from hnm.encoder.networks import Encoder
from hnm.engine.engine import EngineConfig, Forward
from hnm.evidence.measure import instance_part, slide_figures
from hnm.run.study import Study, open_study
from hnm.run_rounds import START_ENCODER
from hnm.statistics.metrics import auc, youden_threshold
from launch.process.distributed import choose_device
from launch.verbs.crossval_folder import read_record, run_folder
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.files import write_json
from shards.reading.reader import PatchReader
from shards.seeding import numpy_generator, seeded_torch, torch_generator

CHECKS = 10  # looks at the validation bags in a training
WEIGHT_DECAY = 5e-4


class Network(torch.nn.Module):
    """Encoder and attention MIL as one; the encoder computes as the cross-validation's config says (engine.precision)."""

    def __init__(self, encoder: Encoder, config: EngineConfig, seed: int, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.encoder = Forward(encoder, config, device)
        with seeded_torch(seed, "end to end"):
            self.mil = AttentionMIL(encoder.feature_dim, gated=True)
        self.to(device)


class Budget:
    """How far a training is, from 0 to 1, by steps or by the seconds spent on training itself."""

    def __init__(self, steps: int | None, seconds: float | None) -> None:
        self.steps, self.seconds, self.num_steps, self.spent = steps, seconds, 0, 0.0

    @property
    def done(self) -> float:
        return self.num_steps / self.steps if self.steps else self.spent / (self.seconds or 1.0)

    def count(self, seconds: float) -> None:
        """Note a step that took `seconds`."""
        self.num_steps, self.spent = self.num_steps + 1, self.spent + seconds


def train_fold(
    config: Config, start: Path, budget: Budget, lr: float, study: Study, reader: PatchReader, device: torch.device
) -> Network:
    """Return the network of the best validation look of one training."""
    network = Network(load_model(start, config.encoder, config.seed).encoder, config.engine, config.seed, device)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, weight_decay=WEIGHT_DECAY)
    positives, negatives = (study.train[study.labels[study.train] == label] for label in (1, 0))
    best, best_state, epoch, looks = (-1.0, 0.0), copy.deepcopy(network.state_dict()), 0, 0
    while budget.done < 1:
        for pairs in pair_slides(positives, negatives, 1, numpy_generator(config.seed, "end to end", epoch)):
            begin = time.monotonic()
            for group in optimizer.param_groups:
                group["lr"] = lr * 0.5 * (1 + np.cos(np.pi * budget.done))
            step(network, optimizer, pairs[0], config, budget.num_steps, study, reader)
            budget.count(time.monotonic() - begin)
            if budget.done * CHECKS >= looks + 1:
                looks = int(budget.done * CHECKS)
                scores, labels = score(network, study.validation, study, reader)[0], study.labels[study.validation]
                loss = float(functional.binary_cross_entropy(torch.from_numpy(scores), torch.from_numpy(labels).double()))
                value = (auc(labels, scores) or 0.0, -loss)
                if value > best:
                    best, best_state = value, copy.deepcopy(network.state_dict())
            if budget.done >= 1:
                break
        epoch += 1
    network.load_state_dict(best_state)
    return network


def step(
    network: Network, optimizer: torch.optim.Optimizer, pair: np.ndarray, config: Config, number: int, study: Study,
    reader: PatchReader,
) -> None:  # fmt: skip
    """Take one optimizer step on a (positive, negative) pair of slides (2,)."""
    network.train()
    bags = []
    for slide, place in zip(pair, ("positive", "negative"), strict=True):
        images = reader.read(study.patches_of(np.array([slide]))).to(network.device)
        generator = torch_generator(config.seed, "end to end views", number, place)
        bags.append(augment(images, draw(config.pretrain.augment, len(images), images.shape[-1], generator)))
    features = network.encoder(torch.cat(bags)).float().split([len(bag) for bag in bags])
    logits = network.mil(pack(list(features))).bag_logits
    loss = functional.binary_cross_entropy_with_logits(logits, torch.tensor([1.0, 0.0], device=network.device))
    if not torch.isfinite(loss):
        raise FloatingPointError(f"loss is {float(loss)} at step {number}; lower --lr")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    wait(network.device)  # a GPU is still at work here, and the seconds are those of the step


@torch.inference_mode()
def score(network: Network, slides: np.ndarray, study: Study, reader: PatchReader) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of slides (s,) float64, and (N,) float64 of their patches, NaN elsewhere."""
    network.eval()
    by_slide, by_patch = np.empty(len(slides)), np.full(study.cohort.num_patches, np.nan)
    for row, slide in enumerate(slides):
        ids = study.patches_of(np.array([slide]))
        prediction = network.mil(pack([network.encoder(to_float(reader.read(ids).to(network.device))).float()]))
        by_slide[row] = float(prediction.bag_logits.double().sigmoid())
        by_patch[ids] = prediction.instance_logits.double().sigmoid().cpu().numpy()
    return by_slide, by_patch


def run_one(source: Path, out: Path, budget: Budget, lr: float, device: torch.device) -> None:
    """Train and test on the fold whose run directory is `source`, and write out/metrics.json."""
    config = read_config(source / "config.yaml")
    study = open_study(Cohort.open(source.parents[1] / "cohort"), config.data, config.seed)
    with PatchReader(study.cohort, config.reader, study.slide_groups) as reader:
        network = train_fold(config, source / START_ENCODER, budget, lr, study, reader, device)
        chosen_by, patches_chosen_by = score(network, study.validation, study, reader)
        scores, by_patch = score(network, study.test, study, reader)
    threshold = youden_threshold(study.labels[study.validation], chosen_by)
    by_patch = np.where(np.isnan(by_patch), patches_chosen_by, by_patch)
    metrics: dict[str, Any] = {
        "slide": slide_figures(study.labels[study.test], scores, threshold),
        "instance": instance_part(by_patch, study, config.seed),
        "encoder_steps": budget.num_steps,
        "seconds": round(budget.spent, 1),
    }
    write_json(out / "metrics.json", metrics)


def main() -> None:
    """Parse the command line and do the folds of one share."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("crossval", type=Path)
    parser.add_argument("out", type=Path)
    limit = parser.add_mutually_exclusive_group(required=True)
    limit.add_argument("--steps", type=int, help="optimizer steps of a fold")
    limit.add_argument("--seconds", type=float, help="seconds of training of a fold")
    parser.add_argument("--share", default="1/1", metavar="I/N", help="only every N-th fold, from the I-th on")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="do not mix devices in one OUT")
    args = parser.parse_args()
    number, count = (int(part) for part in args.share.split("/"))
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")
    device = choose_device(args.device)
    try:
        record = read_record(args.crossval)
        keys = [(repeat, fold) for repeat in range(record["repeats"]) for fold in range(record["folds"])]
        for key in keys[number - 1 :: count]:
            out = run_folder(args.out, key)
            if not (out / "metrics.json").is_file():
                run_one(run_folder(args.crossval, key), out, Budget(args.steps, args.seconds), args.lr, device)
                print(f"end to end: repeat {key[0]}, fold {key[1]} done", flush=True)
    except (InputError, FloatingPointError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
