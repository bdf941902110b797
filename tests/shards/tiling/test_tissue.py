import numpy as np
import pytest
from PIL import Image, ImageFilter

from shards.tiling.pyramid import open_pyramid
from shards.tiling.tissue import canny_std, edge_energy, glass_free, otsu_saturation, shares, white_fraction
from tests.paths import CMU, GOLDEN, needs_slides


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "background_cmu_small.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def tiles(golden: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The 140 tiles of the golden file's deep-zoom grid; those at the rim are smaller."""
    import openslide

    with openslide.OpenSlide(CMU) as slide:
        regions = zip(golden["column"], golden["row"], golden["width"], golden["height"], strict=True)
        return [
            np.asarray(slide.read_region((224 * int(x), 224 * int(y)), 0, (int(w), int(h))).convert("RGB"))
            for x, y, w, h in regions
        ]


@needs_slides
def test_golden_edge_energy(golden: dict[str, np.ndarray], tiles: list[np.ndarray]) -> None:
    energy = np.array([edge_energy(tile, 224) for tile in tiles])
    np.testing.assert_allclose(energy, golden["edge_energy"], rtol=1e-12)
    assert (len(energy), (energy > 15).sum(), (energy > 30).sum()) == (140, 60, 38)


@needs_slides
def test_golden_white_fraction(golden: dict[str, np.ndarray], tiles: list[np.ndarray]) -> None:
    fraction = np.array([white_fraction(tile) for tile in tiles])
    np.testing.assert_allclose(fraction, golden["white_fraction"], rtol=1e-12)
    full = (golden["width"] == 224) & (golden["height"] == 224)
    assert (fraction[full] <= 0.25).sum() == 34


@needs_slides
def test_golden_canny_std(golden: dict[str, np.ndarray], tiles: list[np.ndarray]) -> None:
    np.testing.assert_allclose([canny_std(tile) for tile in tiles], golden["canny_std"], rtol=1e-12)


@needs_slides
def test_the_generous_mask_never_drops_a_patch_that_the_patch_filters_keep(
    golden: dict[str, np.ndarray],
) -> None:
    with open_pyramid(CMU) as slide:
        thumbnail, level0_per_px = slide.thumbnail(512)
    share = shares(glass_free(thumbnail), level0_per_px, 224 * golden["column"], 224 * golden["row"], 224)
    assert (share[golden["edge_energy"] > 15] > 0).all()
    assert (share[golden["white_fraction"] <= 0.25] > 0).all()
    assert (share == 0).sum() >= 20  # and glass is not read


@needs_slides
def test_otsu_finds_the_tissue_of_a_real_slide(golden: dict[str, np.ndarray]) -> None:
    with open_pyramid(CMU) as slide:
        thumbnail, level0_per_px = slide.thumbnail(1024)
    share = shares(otsu_saturation(thumbnail), level0_per_px, 224 * golden["column"], 224 * golden["row"], 224)
    kept = share >= 0.25
    assert 40 <= kept.sum() <= 60  # 60 pass edge_energy at 15, 38 at 30
    assert (golden["edge_energy"][share == 0] < 15).all()


def test_edges_are_pils() -> None:
    patch = np.random.default_rng(0).integers(0, 256, (17, 23, 3), dtype=np.uint8)
    edges = np.asarray(Image.fromarray(patch).filter(ImageFilter.FIND_EDGES))
    assert edge_energy(patch, 20) == pytest.approx(edges.astype(float).sum() / 3 / 400)


def test_white_is_from_230_on() -> None:
    patch = np.full((2, 2, 3), 229, np.uint8)
    patch[0, 0] = 230
    assert white_fraction(patch) == 0.25


def test_a_blank_patch_has_no_edges() -> None:
    assert canny_std(np.full((32, 32, 3), 200, np.uint8)) == 0


def test_otsu_calls_noise_on_glass_no_tissue() -> None:
    noise = np.clip(np.random.default_rng(0).normal(240, 2, (64, 64, 3)), 0, 255).astype(np.uint8)
    assert not otsu_saturation(noise).any()
    noise[20:40, 20:40] = (200, 120, 180)
    assert 350 <= otsu_saturation(noise).sum() <= 400


def test_shares_by_hand() -> None:
    mask = np.zeros((4, 6), bool)
    mask[1:3, 1:3] = True
    x_level0, y_level0 = np.array([0, 10, 40, 30]), np.array([0, 10, 0, 30])
    share = shares(mask, 10.0, x_level0, y_level0, 20)
    np.testing.assert_allclose(share, [0.25, 1.0, 0.0, 0.0])
    np.testing.assert_allclose(shares(mask, 10.0, np.array([12]), np.array([12]), 3), [1.0])
