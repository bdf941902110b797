"""Fine-tuning on slide labels: what is drawn, the same course on any number of ranks and chunks, and going on after a stop."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hnm.aggregator.aggregators import build_aggregator
from hnm.encoder.contrastive_model import fresh_model
from hnm.encoder.slide_loss import RoundSettings, SlideTraining, finetune_on_slides
from hnm.encoder.slide_plan import plan_slide_steps
from hnm.engine.ranks import World, single_world
from hnm.run.session import Session
from shards.seeding import seeded_torch
from tests.hnm.worlds import in_float64, mine_and_share
from tests.ranks import on_ranks
from tests.tiny import tiny_config, tiny_session

SLIDE = [
    *("finetune.objective=slide", "finetune.slide.slides_per_step=4", "finetune.slide.patches_per_slide=5"),
    *("finetune.augment.recipe=weak", "mining.neg_ratio=1.0", "finetune.batch_size=32", "finetune.lr=0.05"),
]
VARIANTS = {
    "slide": [],
    "chunks": ["finetune.chunk_size=2"],
    "weighted": ["finetune.slide.patches=weighted", "finetune.slide.ema=0.5"],
    "both": ["finetune.objective=both"],
    "zero1": ["engine.deepspeed=zero1"],
    "zero2": ["engine.deepspeed=zero2"],
}


def tuned(world: World, cohort: str, folder: str, variants: list[str]) -> dict[str, dict[str, torch.Tensor]]:
    """The float64 weights after an epoch of each variant. Every rank must call it."""
    return {name: _tuned(world, cohort, f"{folder}/{name}", VARIANTS[name]) for name in variants}


def _tuned(world: World, cohort: str, folder: str, overrides: list[str]) -> dict[str, torch.Tensor]:
    config = tiny_config(*SLIDE, *overrides)
    with tiny_session(world, Path(cohort), config) as session:
        mined = mine_and_share(session, Path(folder))
        model = in_float64(fresh_model(config.encoder, seed=1))
        settings = RoundSettings(config.finetune, config.mining, config.aggregate, num_rounds=2)
        return finetune_on_slides(model, aggregator_of(model, session), mined, settings, 1, session)[0]


def aggregator_of(model: Any, session: Session) -> Any:
    with seeded_torch(7):
        return build_aggregator("dsmil", model.encoder.feature_dim, 2).double().to(session.world.device)


@pytest.mark.parametrize(
    ("size", "variants"),
    [
        (2, ["slide", "both"]),
        pytest.param(2, ["chunks", "weighted", "zero1", "zero2"], marks=pytest.mark.slow),
        pytest.param(3, ["slide", "chunks", "weighted", "both"], marks=pytest.mark.slow),
    ],
)
def test_any_number_of_ranks_and_chunks_follow_one_course(
    tmp_path: Path, tiny_cohort: Path, size: int, variants: list[str]
) -> None:
    one = tuned(single_world(), str(tiny_cohort), str(tmp_path / "1"), ["slide", "weighted", "both"])
    assert not all(torch.equal(one["slide"][name], one["both"][name]) for name in one["slide"])
    for result in on_ranks(size, tuned, str(tiny_cohort), str(tmp_path / str(size)), variants):
        for name in variants:
            same(result[name], one.get(name, one["slide"]), 1e-6 if "zero" in name else 1e-9)


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-9) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=tolerance, atol=tolerance, check_dtype=False)


def test_patches_are_drawn_by_weight_and_small_slides_give_all() -> None:
    bounds = np.array([0, 3, 103, 203])
    weights = np.zeros(203, np.float16)
    weights[100:110], weights[110:203] = 1, 0.0  # three hard ones of slide 1, seven of slide 2
    steps = plan_slide_steps([np.array([1, 0]), np.array([2, 1])], bounds, weights, 5, 0, "train", 0)
    assert steps[0].row.tolist() == [100, 101, 102, 0, 1, 2]  # slide 0 has no weight: all alike
    assert steps[0].sizes.tolist() == [3, 3]
    assert set(steps[1].row[:5]) < set(range(103, 110))
    again = plan_slide_steps([np.array([1, 0]), np.array([2, 1])], bounds, weights, 5, 0, "train", 0)
    np.testing.assert_array_equal(again[1].row, steps[1].row)
    other = plan_slide_steps([np.array([2])] * 2, bounds, None, 50, 0, "train", 1)
    assert (np.diff(other[0].row) > 0).all()
    assert not np.array_equal(other[0].row, other[1].row)


def test_the_label_of_drawn_slides_is_learned_and_the_best_epoch_kept(tiny_cohort: Path, tmp_path: Path) -> None:
    lengths = ("finetune.epochs_per_round=24", "finetune.cosine_after_epoch=24", "finetune.slide.patches_per_slide=16")
    rates = ("finetune.lr=0.3", "finetune.slide.aggregator_lr=5e-3", "aggregate.kind=max")
    config = tiny_config(*SLIDE, *lengths, *rates)
    losses: list[float] = []
    with tiny_session(single_world(), tiny_cohort, config) as session:
        session.journal.metrics = lambda _, step, **values: losses.append(values["validation_loss"])  # type: ignore[method-assign]
        model = fresh_model(config.encoder, seed=1)
        settings = RoundSettings(config.finetune, config.mining, config.aggregate, num_rounds=1)
        with seeded_torch(7):
            aggregator = build_aggregator("max", model.encoder.feature_dim)
        training = SlideTraining(model, aggregator, mine_and_share(session, tmp_path), settings, session, 0)
        weights, num_steps = training.train(0)
        assert num_steps == 24 * 2
        assert min(losses) < 0.55 < losses[0]
        # a file of these weights is whole: the head that was not trained is there, too
        assert {name.split(".")[0] for name in weights} == {"encoder", "projection"}


def test_patience_ends_a_round_early(tiny_cohort: Path, tmp_path: Path) -> None:
    config = tiny_config(*SLIDE, "finetune.epochs_per_round=9", "finetune.lr=1e-12", "finetune.slide.patience=2")
    config.finetune.slide.aggregator_lr = 1e-12  # nothing changes: the first epoch is the best
    with tiny_session(single_world(), tiny_cohort, config) as session:
        model = fresh_model(config.encoder, seed=1)
        settings = RoundSettings(config.finetune, config.mining, config.aggregate, num_rounds=1)
        aggregator = build_aggregator("transmil", model.encoder.feature_dim)
        mined = mine_and_share(session, tmp_path)
        assert finetune_on_slides(model, aggregator, mined, settings, 0, session)[1] == 3 * 2
