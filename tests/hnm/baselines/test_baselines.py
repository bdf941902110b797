"""Every baseline finds planted patches, says the same twice, and refuses what it cannot be fitted on."""

from dataclasses import replace

import numpy as np
import pytest

from hnm.baselines import networks
from hnm.baselines.bags import Bags
from hnm.baselines.baselines import BASELINES
from hnm.baselines.instances import Instances
from hnm.baselines.pooled import FittedPooled, Pooled
from hnm.statistics.metrics import auc
from shards.errors import InputError

DIM, PATCHES, PLANTED = 8, 20, 4


def drawn(seed: int, num_bags: int = 24) -> tuple[Bags, np.ndarray]:
    """Return bags of noise, and the truth: four patches of each positive bag lie elsewhere."""
    random = np.random.default_rng(seed)
    labels = np.arange(num_bags) % 2
    features = random.normal(size=(num_bags, PATCHES, DIM)).astype(np.float32)
    features[labels == 1, :PLANTED, 0] += 6
    truth = np.zeros((num_bags, PATCHES), np.int8)
    truth[labels == 1, :PLANTED] = 1
    return Bags(tuple(features), labels.astype(np.int8)), truth.ravel()


TRAIN, VALIDATION, (TEST, TRUTH) = drawn(0)[0], drawn(1, 12)[0], drawn(2, 20)


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is planted here is learned soon."""
    monkeypatch.setattr(networks, "MOST_EPOCHS", 20)


@pytest.mark.parametrize("name", BASELINES)
def test_planted_patches_are_found_and_the_same_numbers_give_the_same_result(name: str) -> None:
    first, again = (BASELINES[name].fit(TRAIN, VALIDATION, seed=3) for _ in range(2))
    scores = first.slide_scores(TEST)
    assert scores.shape == (20,) and scores.dtype == np.float32 and scores.min() >= 0 and scores.max() <= 1  # noqa: PT018
    assert (auc(TEST.labels, scores) or 0) > 0.9
    np.testing.assert_array_equal(again.slide_scores(TEST), scores)
    assert first.chosen == again.chosen != {}
    patches, patches_again = first.patch_scores(TEST), again.patch_scores(TEST)
    if name == "meanstd":
        assert patches is None
        return
    assert patches is not None and patches_again is not None  # noqa: PT018
    assert [its.shape for its in patches] == [(PATCHES,)] * 20
    np.testing.assert_array_equal(np.concatenate(patches), np.concatenate(patches_again))
    if name in ("mean", "instance"):  # a network's patches are a by-product of its bags
        assert (auc(TRUTH, np.concatenate(patches)) or 0) > 0.9


def test_a_bags_logit_is_the_mean_of_its_patches_logits() -> None:
    fitted = Pooled(with_std=False).fit(TRAIN, VALIDATION, 0)
    patches = fitted.patch_scores(TEST)
    assert patches is not None
    means = np.array([its.mean() for its in patches])
    np.testing.assert_allclose(fitted.slide_scores(TEST), 1 / (1 + np.exp(-means)), rtol=1e-4)


def test_the_deviation_tells_bags_of_one_mean_apart() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(24, dtype=np.int8) % 2
    half = random.normal(size=(24, PATCHES, DIM)) * (1 + labels[:, None, None])
    bags = Bags(tuple(np.concatenate([half, -half], axis=1).astype(np.float32)), labels)
    fitted = Pooled(with_std=True).fit(bags, bags, 0)
    assert isinstance(fitted, FittedPooled)
    assert auc(labels, fitted.slide_scores(bags)) == 1.0
    assert fitted.weights.shape == (2 * DIM,)


def test_refitting_to_its_own_best_finds_what_the_labels_of_bags_do_not_say() -> None:
    fitted = Instances().fit(TRAIN, VALIDATION, 0)
    assert fitted.refits > 0
    assert fitted.share <= 0.5
    at_most = replace(fitted, share=1e-9).bag_logits(TEST)  # of the best patch alone
    np.testing.assert_allclose(at_most, [its.max() for its in fitted.patch_scores(TEST)], rtol=1e-6)


def test_constant_features_and_bags_of_one_patch_are_fitted() -> None:
    train = Bags(tuple(bag[: 1 + i % 3] * [1, 1, 0, 0, 0, 0, 0, 0] for i, bag in enumerate(TRAIN.features)), TRAIN.labels)
    train = Bags(tuple(bag.astype(np.float32) for bag in train.features), train.labels)
    for name in ("meanstd", "instance", "abmil"):
        assert np.isfinite(BASELINES[name].fit(train, VALIDATION, 0).slide_scores(TEST)).all()


@pytest.mark.parametrize("name", ["mean", "instance", "abmil"])
def test_what_no_baseline_can_be_fitted_on_is_a_clear_word(name: str) -> None:
    fit = BASELINES[name].fit
    with pytest.raises(InputError, match="no training bag is positive"):
        fit(replace(TRAIN, labels=0 * TRAIN.labels), VALIDATION, 0)
    with pytest.raises(InputError, match="no validation bag is negative"):
        fit(TRAIN, replace(VALIDATION, labels=0 * VALIDATION.labels + 1), 0)
    broken = replace(TRAIN, features=(*TRAIN.features[:3], np.full((2, DIM), np.nan, np.float32), *TRAIN.features[4:]))
    with pytest.raises(InputError, match=r"training bag 3 \(the first of 1\)"):
        fit(broken, VALIDATION, 0)
