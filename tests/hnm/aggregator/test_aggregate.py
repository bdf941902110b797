from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hnm.aggregator.aggregate import (
    AggregateConfig,
    bag_loss,
    pair_losses,
    pair_slides,
    pairs_and_scale,
    train_aggregator,
)
from hnm.aggregator.bags import Bags
from hnm.aggregator.dsmil import pack
from hnm.aggregator.score import score_patches, score_slides, slide_scores
from hnm.engine.ranks import World, single_world
from hnm.run.journal import Journal
from tests.hnm.aggregator.test_dsmil import OUR_NAMES, golden_model
from tests.hnm.worlds import session_with_features
from tests.paths import GOLDEN
from tests.ranks import on_ranks, world_of


@pytest.mark.parametrize("pair", ["pair0", "pair1"])
def test_loss_and_gradients_of_a_pair_match_the_reference_program(pair: str) -> None:
    golden, model = np.load(GOLDEN / "ranking_pair.npz"), golden_model()
    bags = [torch.tensor(golden[f"{pair}_{kind}_bag"]) for kind in ("positive", "negative")]
    loss = pair_losses(model, pack(bags), float(golden["pos_weight"]), AggregateConfig()).sum()
    loss.backward()
    assert loss.item() == pytest.approx(float(golden[f"{pair}_loss"]), abs=1e-6)
    ours = dict(model.named_parameters())
    for key in golden.files:
        if key.startswith(f"{pair}_grad/"):
            layer, parameter = key.removeprefix(f"{pair}_grad/").rsplit(".", 1)
            gradient = ours[f"{OUR_NAMES[layer]}.{parameter}"].grad
            np.testing.assert_allclose(gradient, golden[key], atol=1e-6)


def test_packed_pairs_have_the_losses_of_single_pairs() -> None:
    golden, model, config = np.load(GOLDEN / "ranking_pair.npz"), golden_model(), AggregateConfig()
    positive, negative = (
        [torch.tensor(golden[f"{pair}_{kind}_bag"]) for pair in ("pair0", "pair1")] for kind in ("positive", "negative")
    )
    both = pair_losses(model, pack([*positive, *negative]), 1.4, config)
    single = [pair_losses(model, pack([p, n]), 1.4, config).item() for p, n in zip(positive, negative, strict=True)]
    assert both.tolist() == pytest.approx(single, rel=1e-12)


def test_bags_smaller_than_top_k_take_all_their_patches() -> None:
    model = golden_model()
    loss = pair_losses(model, pack([torch.ones(2, 32).double(), torch.zeros(1, 32).double()]), 1.0, AggregateConfig())
    assert torch.isfinite(loss).all()


def test_ranking_on_scores_compares_sigmoids() -> None:
    model, base = golden_model(), AggregateConfig(ranking_weight=0.0)
    bags = pack([torch.ones(3, 32).double(), -torch.ones(4, 32).double()])
    scores = AggregateConfig(ranking_weight=1.0, ranking_on="scores")
    added = pair_losses(model, bags, 1.0, scores) - pair_losses(model, bags, 1.0, base)
    positive, negative = model.score(torch.ones(1, 32).double()), model.score(-torch.ones(1, 32).double())
    assert added.item() == pytest.approx(max(0.0, 1 - positive.sigmoid().item() + negative.sigmoid().item()))


def test_an_epoch_pairs_until_the_shorter_list_ends() -> None:
    steps = pair_slides(np.array([1, 2, 3]), np.array([10, 11, 12, 13, 14]), 2, np.random.default_rng(0))
    pairs = np.concatenate(steps)
    assert [len(step) for step in steps] == [2, 1]
    assert sorted(pairs[:, 0]) == [1, 2, 3]
    assert len(set(pairs[:, 1])) == 3


def train_and_score(
    world: World, folder: str, kind: str, pairs_per_step: int, max_patches: int | None
) -> tuple[dict[str, torch.Tensor], torch.Tensor, np.ndarray]:
    session = session_with_features(world, folder)
    bags = Bags(session.features, world.device)
    settings = {"kind": kind, "pairs_per_step": pairs_per_step, "max_patches": max_patches}
    config = AggregateConfig(epochs=6, lr=5e-3, validate_every=2, **settings)  # type: ignore[arg-type]
    model = train_aggregator(bags, config, 0, session)
    logits, part = score_slides(model, bags, session.study.embedded_slides, session)
    return model.state_dict(), logits, part.scores


@pytest.mark.parametrize("settings", [("dsmil", 1, None), ("transmil", 3, 6)])
def test_two_and_three_ranks_follow_one(tmp_path, settings: tuple[str, int, int | None]) -> None:  # type: ignore[no-untyped-def]
    expected, logits, scores = train_and_score(single_world(), str(tmp_path), *settings)
    for size in (2, 3):
        results = on_ranks(size, train_and_score, str(tmp_path), *settings)
        for state, rank_logits, _ in results:
            for name, tensor in expected.items():  # float32 sums in another order, over 36 or 12 steps
                torch.testing.assert_close(state[name], tensor, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(rank_logits, logits, atol=1e-3, rtol=1e-3)
        np.testing.assert_allclose(np.concatenate([part for _, _, part in results]), scores, atol=1e-3)


def test_one_pair_a_rank_scales_the_rate_by_the_root() -> None:
    assert pairs_and_scale(AggregateConfig(pairs_per_step=3), 100, world_of(0, 8)) == (3, 1.0)
    assert pairs_and_scale(AggregateConfig(pairs_per_step="ranks"), 100, world_of(0, 4)) == (4, 2.0)
    assert pairs_and_scale(AggregateConfig(pairs_per_step="ranks"), 9, world_of(0, 64)) == (9, 3.0)
    with pytest.raises(ValidationError, match=r"greater than or equal to 1|'ranks'"):
        AggregateConfig(pairs_per_step=0)


@pytest.mark.parametrize(("patience", "looks"), [(0, 5), (2, 2), (3, 3)])
def test_training_stops_after_looks_without_a_lower_loss(tmp_path, patience: int, looks: int) -> None:  # type: ignore[no-untyped-def]
    told: list[int] = []
    session = session_with_features(single_world(), str(tmp_path))
    journal = Journal(None, session.world, lambda metrics, step: told.append(step))
    config = AggregateConfig(epochs=15, lr=1e-30, weight_decay=0, validate_every=3, patience=patience)  # nothing moves
    train_aggregator(Bags(session.features, session.world.device), config, 0, replace(session, journal=journal))
    assert told == [2, 5, 8, 11, 14][:looks]


def test_training_separates_bags_that_can_be_told_apart(tmp_path) -> None:  # type: ignore[no-untyped-def]
    session = session_with_features(single_world(), str(tmp_path))
    bags = Bags(session.features, session.world.device)
    model = train_aggregator(bags, AggregateConfig(epochs=40, lr=5e-3, select="validation"), 0, session)
    logits, _ = score_slides(model, bags, session.study.embedded_slides, session)
    labels = session.study.labels[session.study.embedded_slides]
    scores = slide_scores(logits)
    assert scores[labels == 1].min() > scores[labels == 0].max()
    assert bag_loss(logits, labels) < 0.3


def test_scores_do_not_depend_on_the_chunk(tmp_path) -> None:  # type: ignore[no-untyped-def]
    session = session_with_features(single_world(), str(tmp_path))
    bags, model = Bags(session.features, session.world.device), golden_model().float()
    whole = score_patches(model, bags, 0, bags.num_rows)
    np.testing.assert_allclose(score_patches(model, bags, 0, bags.num_rows, chunk=7), whole, rtol=1e-5)
