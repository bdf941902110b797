import numpy as np
import pytest

from shards.errors import InputError
from shards.tiling.stain import LIGHT, REFERENCE_AMOUNTS, REFERENCE_LAB, REFERENCE_STAINS, fit_macenko, fit_reinhard


def stained(amounts: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """Return (n, 3) uint8: light that has gone through the amounts (n, 2) of two stains."""
    return np.clip(np.rint(LIGHT * np.exp(-amounts @ stains)), 0, 255).astype(np.uint8)


@pytest.fixture
def amounts() -> np.ndarray:
    random = np.random.default_rng(0)
    pure = np.concatenate([random.uniform(0.3, 1.5, (2000, 1)), random.uniform(0, 0.02, (2000, 1))], axis=1)
    return np.concatenate([pure, pure[:, ::-1], random.uniform(0.2, 0.9, (2000, 2))])


def test_macenko_gives_two_differently_stained_slides_the_same_colours(amounts: np.ndarray) -> None:
    stains = REFERENCE_STAINS / np.linalg.norm(REFERENCE_STAINS, axis=1, keepdims=True)
    strong = stained(amounts, stains * [[1.3], [0.8]])
    bluish = stained(amounts, np.array([[0.70, 0.62, 0.30], [0.12, 0.85, 0.50]]))
    first = fit_macenko(strong)(strong.reshape(-1, 60, 3)).astype(int)
    second = fit_macenko(bluish)(bluish.reshape(-1, 60, 3)).astype(int)
    assert np.abs(strong.astype(int) - bluish.astype(int)).mean() > 10  # told apart before, alike after
    assert np.abs(first - second).mean() < 5


def test_macenko_leaves_a_slide_of_the_reference_stain_alone(amounts: np.ndarray) -> None:
    most = np.percentile(amounts, 99, axis=0)
    pixels = stained(amounts / most * REFERENCE_AMOUNTS, REFERENCE_STAINS)
    assert np.abs(fit_macenko(pixels)(pixels[None]).astype(int) - pixels.astype(int)).mean() < 4


def test_reinhard_moves_mean_and_deviation() -> None:
    import cv2

    pixels = np.random.default_rng(0).normal((190, 120, 170), 12, (4000, 3)).clip(0, 255).astype(np.uint8)
    moved = fit_reinhard(pixels)(pixels.reshape(40, 100, 3))
    lab = cv2.cvtColor(moved, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    np.testing.assert_allclose(lab.mean(axis=0), REFERENCE_LAB[0], atol=4)


@pytest.mark.parametrize("fit", [fit_macenko, fit_reinhard])
def test_too_few_pixels_are_named(fit) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=r"too few to fit a stain\. Set tile\.stain=none"):
        fit(np.full((20, 3), 100, np.uint8))
