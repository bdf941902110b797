"""Every kind of aggregator: packed bags equal a loop over bags, chunks equal the whole, training learns, files come back."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from hnm.aggregator.aggregate import AggregateConfig, pair_losses, train_aggregator
from hnm.aggregator.aggregators import Aggregator, Ensemble, Kind, build_aggregator
from hnm.aggregator.bags import Bags
from hnm.aggregator.dsmil import pack
from hnm.aggregator.score import predict_bag, score_patches, score_slides, slide_scores
from hnm.engine.ranks import single_world
from hnm.engine.state import save_weights
from hnm.rounds import load_aggregator
from hnm.statistics.metrics import auc
from shards.errors import InputError
from shards.seeding import seeded_torch
from tests.hnm.worlds import DIM, SessionWithFeatures, session_with_features

KINDS = get_args(Kind)


def fresh(kind: str, dim: int = DIM) -> Aggregator:
    with seeded_torch(0, "test"):
        model = build_aggregator(kind, dim)
    return model


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> SessionWithFeatures:
    return session_with_features(single_world(), str(tmp_path_factory.mktemp("features")))


@pytest.mark.parametrize("kind", KINDS)
def test_packed_bags_equal_a_loop_over_single_bags_with_gradients(kind: str) -> None:
    model, generator = fresh(kind, 8).double(), torch.Generator().manual_seed(3)
    bags = [3 * torch.randn(n, 8, generator=generator, dtype=torch.float64) for n in (1, 5, 30)]
    outputs, gradients = [], []
    for batches in ([bags], [[bag] for bag in bags]):
        model.zero_grad()
        predictions = [model(pack(batch)) for batch in batches]
        for prediction in predictions:
            (prediction.bag_logits.sum() + prediction.instance_logits.square().sum()).backward()
        outputs.append([torch.cat(column) for column in zip(*predictions, strict=True)])
        gradients.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert any(gradient.abs().sum() > 0 for gradient in gradients[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_read_in_chunks_equals_the_bag_in_one_pass(kind: str, session: SessionWithFeatures) -> None:
    bags, model = Bags(session.features, torch.device("cpu")), fresh(kind)
    for parameter in model.parameters():
        parameter.data *= 3  # sharp attention
    with torch.no_grad():
        whole = model(pack([bags.rows(0, bags.num_rows)]))
    second = whole.instance_logits.max() if model.two_streams else whole.bag_logits[0]
    for chunk in (1, 7, bags.num_rows):
        predicted = predict_bag(model, bags, 0, bags.num_rows, chunk)
        torch.testing.assert_close(predicted, torch.stack([whole.bag_logits[0], second]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.score(bags.rows(0, 5)), whole.instance_logits[:5])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_and_its_file_says_what_it_is(kind: str, session: SessionWithFeatures, tmp_path: Path) -> None:
    bags, study = Bags(session.features, torch.device("cpu")), session.study
    config = AggregateConfig(kind=kind, epochs=30, lr=3e-3, validate_every=30, pairs_per_step=5, halve_every_epochs=15)  # type: ignore[arg-type]
    model = train_aggregator(bags, config, 0, session)
    logits, part = score_slides(model, bags, study.embedded_slides, session)
    trained, truth = study.patches_of(study.train), study.cohort.patches.truth
    slide_auc = auc(study.labels[study.train], slide_scores(logits)[np.isin(study.embedded_slides, study.train)])
    patch_auc = auc(truth[trained], part.scores[trained])
    assert slide_auc == 1
    assert patch_auc is not None
    assert patch_auc > 0.85
    save_weights(tmp_path / "aggregator.safetensors", model, {"kind": kind})
    again = load_aggregator(tmp_path / "aggregator.safetensors", bags.dim, session)
    assert type(again) is type(model)
    torch.testing.assert_close(again(pack([bags.rows(0, 9)])), model(pack([bags.rows(0, 9)])))


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_a_bags_patches_does_not_matter(kind: str) -> None:
    model, generator = fresh(kind, 8).double(), torch.Generator().manual_seed(4)
    bag = torch.randn(12, 8, generator=generator, dtype=torch.float64)
    order = torch.randperm(12, generator=generator)
    one, other = model(pack([bag])), model(pack([bag[order]]))
    torch.testing.assert_close(other.bag_logits, one.bag_logits)
    torch.testing.assert_close(other.instance_logits, one.instance_logits[order])
    torch.testing.assert_close(other.attention, one.attention[order])
    torch.testing.assert_close(one.attention.sum().item(), 1.0)


def test_attention_mil_is_the_formula_of_the_paper() -> None:
    model = fresh("abmil_gated", 8).double()
    x = torch.randn(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}

    def linear(name: str, rows: np.ndarray) -> np.ndarray:
        result: np.ndarray = rows @ state[f"{name}.weight"].T + state[f"{name}.bias"]
        return result

    h = np.maximum(linear("hidden", x.numpy()), 0)
    e = linear("attention", np.tanh(linear("query", h)) / (1 + np.exp(-linear("gate", h))))[:, 0]  # eq. 9
    a = np.exp(e) / np.exp(e).sum()
    prediction = model(pack([x]))
    np.testing.assert_allclose(prediction.attention.detach(), a)
    np.testing.assert_allclose(prediction.bag_logits.detach(), linear("bag", (a @ h)[None])[:, 0])  # eq. 7
    np.testing.assert_allclose(prediction.instance_logits.detach(), linear("bag", h)[:, 0])
    alone = model(pack([x[:1]]))
    torch.testing.assert_close(alone.bag_logits, alone.instance_logits)


def test_max_and_mean_pooling_by_hand() -> None:
    bags = pack([torch.randn(4, 8), torch.randn(2, 8)])
    for kind, pooled in (("max", torch.max), ("mean", torch.mean)):
        prediction = fresh(kind, 8)(bags)
        first, second = prediction.instance_logits.split([4, 2])
        torch.testing.assert_close(prediction.bag_logits, torch.stack([pooled(first), pooled(second)]))


def test_only_dsmil_is_trained_on_its_highest_patch_and_only_clam_on_pseudo_labels() -> None:
    bags = pack([torch.randn(6, 8), torch.randn(9, 8)])
    for kind in KINDS:
        model = fresh(kind, 8)

        def loss(model: Aggregator = model, kind: str = kind, **values: float) -> float:
            config = AggregateConfig(kind=kind, ranking_weight=0.0, **values)  # type: ignore[arg-type]
            return pair_losses(model, bags, 1.0, config).item()

        assert (loss(max_weight=0.0) != loss(max_weight=1.0)) == (kind == "dsmil")
        assert (loss(clam_weight=0.0) != loss(clam_weight=1.0)) == (kind == "clam_sb")


def test_members_of_an_ensemble_become_what_they_would_alone(session: SessionWithFeatures, tmp_path: Path) -> None:
    bags = Bags(session.features, torch.device("cpu"))
    config = AggregateConfig(epochs=4, lr=3e-3, validate_every=4, pairs_per_step=5, num_members=2)
    ensemble = train_aggregator(bags, config, 0, session)
    assert isinstance(ensemble, Ensemble)
    first = train_aggregator(bags, config.model_copy(update={"num_members": 1}), 0, session)  # the same first draw
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(ensemble.members[0].state_dict()[name], tensor)
        assert name.endswith("bias") or not torch.equal(ensemble.members[1].state_dict()[name], tensor)
    # what they say is the mean of their logits, of a slide and of a patch
    own = torch.stack([predict_bag(member, bags, 0, 40, 7) for member in ensemble.members])  # type: ignore[arg-type]
    torch.testing.assert_close(predict_bag(ensemble, bags, 0, 40), own.mean(0))
    logits = torch.stack([member.score(bags.rows(0, 40)) for member in ensemble.members])  # type: ignore[operator]
    np.testing.assert_allclose(score_patches(ensemble, bags, 0, 40), logits.mean(0).sigmoid().detach(), rtol=1e-5)
    save_weights(tmp_path / "aggregator.safetensors", ensemble, {"kind": "dsmil", "members": "2"})
    again = load_aggregator(tmp_path / "aggregator.safetensors", bags.dim, session)
    torch.testing.assert_close(again.score(bags.rows(0, 9)), ensemble.score(bags.rows(0, 9)))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match=r"'median' is none of dsmil, abmil, .* mean"):
        build_aggregator("median", 8)
