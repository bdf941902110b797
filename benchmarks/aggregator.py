"""How fast the aggregator trains and scores: bags packed into one pass against a plain loop over bags, the DSMIL way.

    python -m benchmarks.aggregator [--quick] [--cohort-size | --witness] [--kind dsmil] [--members 1]

One epoch over 90 positive and 126 negative bags of 640 x 512 features, as pairs until the shorter list ends, with the same
loss, optimizer and steps in both: `ours` calls hnm.aggregator.aggregate.pair_losses on the packed bags of a step, `loop`
runs one forward a bag, with the value projection of every patch as DSMIL's program has it. They take turns, and each starts
from the same weights; the losses of all pairs are compared. Scoring: hnm.aggregator.score.score_patches against a loop over
single patches. Times are the best of the repeats: other work on the machine only ever slows one. The last line is JSON.
--cohort-size and --witness measure bags of 20,000 patches instead, see benchmarks/aggregator_cohort.py.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import torch
from torch.nn import functional

from benchmarks.about import about
from benchmarks.aggregator_cohort import cohort_size, witness
from hnm.aggregator.aggregate import AggregateConfig, make_optimizer, pair_losses, pair_slides
from hnm.aggregator.aggregators import Kind
from hnm.aggregator.dsmil import DSMIL, QUERY_DIM, pack
from hnm.aggregator.score import score_patches

NUM_POSITIVE, NUM_NEGATIVE, PATCHES, DIM = 90, 126, 640, 512
POS_WEIGHT = NUM_NEGATIVE / NUM_POSITIVE
SEED = 0

Losses = Callable[[DSMIL, list[torch.Tensor], list[torch.Tensor], AggregateConfig], torch.Tensor]


def ours(
    model: DSMIL, positives: list[torch.Tensor], negatives: list[torch.Tensor], config: AggregateConfig
) -> torch.Tensor:
    """Return the losses (pairs,) of one packed pass."""
    return pair_losses(model, pack([*positives, *negatives]), POS_WEIGHT, config)


def loop(
    model: DSMIL, positives: list[torch.Tensor], negatives: list[torch.Tensor], config: AggregateConfig
) -> torch.Tensor:
    """Return the losses (pairs,) of one forward pass a bag."""
    losses = []
    for pair in zip(positives, negatives, strict=True):
        loss, ranked = torch.zeros((), device=pair[0].device), []
        for bag, target in zip(pair, (1.0, 0.0), strict=True):
            instance, logit = forward_of_bag(model, bag)
            goal = torch.full_like(logit, target)
            of_bag = functional.binary_cross_entropy_with_logits(logit, goal)
            of_max = functional.binary_cross_entropy_with_logits(instance.max(), goal)
            loss = loss + POS_WEIGHT * (config.bag_weight * of_bag + config.max_weight * of_max) / 2
            ranked.append(instance.topk(min(config.ranking_top_k, len(instance))).values.mean())
        losses.append(loss + config.ranking_weight * torch.relu(1 - ranked[0] + ranked[1]))
    return torch.stack(losses)


def forward_of_bag(model: DSMIL, bag: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return instance logits (patches,) and the bag logit (), with a value for every patch (DSMIL, eqs. 3 to 6)."""
    instance = model.instance(bag).squeeze(1)
    hidden = torch.relu(model.hidden(bag))
    value, query = model.value(hidden), torch.tanh(model.query(hidden))
    attention = torch.softmax(query @ query[instance.argmax()] / math.sqrt(QUERY_DIM), 0)
    return instance, model.bag((attention @ value)[None, None]).flatten()[0]


def epoch(
    losses: Losses, bags: list[torch.Tensor], num_positive: int, pairs_per_step: int
) -> tuple[float, torch.Tensor]:
    """Train one epoch from the same start; return its seconds and the losses of all pairs."""
    torch.manual_seed(SEED)
    device, config = bags[0].device, AggregateConfig()
    model = DSMIL(DIM).to(device)
    optimizer = make_optimizer(config, model.parameters())
    slides = np.arange(num_positive), np.arange(num_positive, len(bags))
    steps = pair_slides(*slides, pairs_per_step, np.random.default_rng(SEED))
    found = []
    _wait(device)
    start = time.perf_counter()
    for pairs in steps:
        optimizer.zero_grad()
        of_pairs = losses(model, [bags[p] for p in pairs[:, 0]], [bags[n] for n in pairs[:, 1]], config)
        of_pairs.mean().backward()
        optimizer.step()
        found.append(of_pairs.detach())
    _wait(device)
    return time.perf_counter() - start, torch.cat(found).cpu()


class Rows:
    """Features in memory, as hnm.aggregator.bags.Bags gives them out."""

    def __init__(self, features: torch.Tensor) -> None:
        self.features = features

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.features[start:stop].float()


def scoring_seconds(num_patches: int, num_single: int, device: torch.device) -> tuple[float, float]:
    """Return seconds per patch of `score_patches` on `num_patches` and of the loop on `num_single` of them."""
    model = DSMIL(DIM).to(device)
    rows = Rows(torch.randn(num_patches, DIM, dtype=torch.float16).to(device))
    start = time.perf_counter()
    scores = score_patches(model, rows, 0, num_patches)  # type: ignore[arg-type]
    packed = (time.perf_counter() - start) / num_patches
    start = time.perf_counter()
    with torch.no_grad():
        single = [float(model.score(rows.rows(i, i + 1)).sigmoid()) for i in range(num_single)]
    looped = (time.perf_counter() - start) / num_single
    np.testing.assert_allclose(scores[:num_single], single, atol=1e-5)
    return packed, looped


def measure(
    pairs_per_step: int, repeats: int, device: torch.device, num_positive: int = NUM_POSITIVE, num_negative: int = NUM_NEGATIVE,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:  # fmt: skip
    """Return the times and losses of both ways for one size of step."""
    torch.manual_seed(SEED)
    # Positive bags are a little brighter: the losses fall, and differences would grow.
    bags = [torch.randn(PATCHES, DIM) * 0.5 + 0.02 * (i < num_positive) for i in range(num_positive + num_negative)]
    bags = [bag.to(device) for bag in bags]
    seconds: dict[str, list[float]] = {"ours": [], "loop": []}
    difference = 0.0
    for _ in range(repeats):
        ours_s, ours_losses = epoch(ours, bags, num_positive, pairs_per_step)
        loop_s, loop_losses = epoch(loop, bags, num_positive, pairs_per_step)
        seconds["ours"].append(ours_s)
        seconds["loop"].append(loop_s)
        difference = max(difference, float((ours_losses - loop_losses).abs().max()))
    best = {name: round(min(times), 4) for name, times in seconds.items()}
    ratio = round(best["loop"] / best["ours"], 3)
    result = {"seconds": best, "ratio_to_loop": ratio, "max_loss_difference": difference}
    say(f"{device.type}, {pairs_per_step} pairs a step: {result}")
    return result


def main() -> None:
    """Parse the command line, measure, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, under a minute")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--cohort-size", action="store_true", help="epochs of 200 bags of 20,000 x 1024, on 1 and 2 ranks")
    what.add_argument("--witness", action="store_true", help="what a cap on the patches costs, one in a thousand positive")
    parser.add_argument("--kind", choices=get_args(Kind), default="dsmil", help="with one of these two: which aggregator")
    parser.add_argument("--members", type=int, default=1, help="with one of these two: how many of them")
    args = parser.parse_args()
    if args.cohort_size or args.witness:
        torch.set_num_threads(1)
        measured = (cohort_size if args.cohort_size else witness)(args.quick, args.kind, args.members)
        print(json.dumps({**about("aggregator", args.quick, ("numpy", "torch")), **measured}))
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # A step of one pair, as the method has it, and steps of several pairs.
    cases = {str(pairs): measure(pairs, 1 if args.quick else 7, device) for pairs in (1, 8)}
    num_patches, num_single = (100_000, 5_000) if args.quick else (1_000_000, 1_000_000)
    packed, looped = scoring_seconds(num_patches, num_single, device)
    result = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "num_threads": torch.get_num_threads(),
        "ratio_to_loop": min(case["ratio_to_loop"] for case in cases.values()),
        "max_loss_difference": max(case["max_loss_difference"] for case in cases.values()),
        "scoring_ratio": round(looped / packed, 1),
        "scoring_seconds_per_1e6": {"ours": round(packed * 1e6, 2), "loop": round(looped * 1e6, 2)},
        "scoring_patches": {"ours": num_patches, "loop": num_single},
        "by_pairs_per_step": cases,
    }
    print(json.dumps({**about("aggregator", args.quick, ("numpy", "torch")), **result}))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
