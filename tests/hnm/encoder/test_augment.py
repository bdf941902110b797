"""Every augmentation against a slow reference for one image; rows are independent; draws are the same everywhere."""

import colorsys
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from hnm.encoder.augment import (
    STAINS,
    AugmentConfig,
    Parameters,
    augment,
    change_colours,
    change_stains,
    draw,
    resampling_matrices,
    to_float,
)

Recipe = Literal["simclr", "weak", "histology"]
RECIPES: list[Recipe] = ["simclr", "weak", "histology"]


def _images(num: int, side: int, seed: int = 0) -> Tensor:
    """Smooth random colours, as in a photograph: white noise would hide errors of half a pixel in nothing."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num, 3, 5, 5, generator=generator)
    return (F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1) * 255).round().to(torch.uint8)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _identity(num: int, side: int) -> Parameters:
    no, zero, one = torch.zeros(num, dtype=torch.bool), torch.zeros(num), torch.ones(num)
    return {
        **{name: no.clone() for name in ("flip_x", "flip_y", "transpose", "grey")},
        **{name: one.clone() for name in ("brightness", "contrast", "saturation")},
        "crop": torch.tensor([[0, 0, side, side]]).repeat(num, 1),
        "sigma": zero.clone(),
        "hue": zero.clone(),
        "stain_scale": torch.ones(num, 3),
        "stain_shift": torch.zeros(num, 3),
    }


@pytest.mark.parametrize("side", [5, 28, 33])
def test_identity_parameters_give_the_identity(side: int) -> None:
    images = _images(3, side)
    torch.testing.assert_close(augment(images, _identity(3, side)), to_float(images), rtol=0, atol=2e-6)


def test_crop_resize_and_flip_equal_interpolating_the_crop() -> None:
    images, parameters = _images(64, 28), _identity(64, 28)
    drawn = draw(AugmentConfig(recipe="simclr"), 64, 28, _generator(0))
    parameters |= {name: drawn[name] for name in ("crop", "flip_x", "flip_y")}
    result = augment(images, parameters)
    for i, (top, left, height, width) in enumerate(parameters["crop"].tolist()):
        crop = to_float(images[i : i + 1, :, top : top + height, left : left + width])
        expected = F.interpolate(crop, (28, 28), mode="bilinear", align_corners=False)[0]
        expected = expected.flip(2) if parameters["flip_x"][i] else expected
        expected = expected.flip(1) if parameters["flip_y"][i] else expected
        torch.testing.assert_close(result[i], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("side", "kernel"), [(28, 3), (96, 5), (120, 7)])
def test_blur_equals_a_convolution_with_reflected_edges(side: int, kernel: int) -> None:
    images, parameters = _images(3, side), _identity(3, side)
    parameters["sigma"] = torch.tensor([0.1, 0.9, 2.0])
    result = augment(images, parameters)
    for i, sigma in enumerate(parameters["sigma"].tolist()):
        offsets = np.arange(kernel) - kernel // 2
        weights = np.exp(-0.5 * (offsets / sigma) ** 2)
        expected = images[i].numpy() / 255
        for axis in (1, 2):
            widths = [(kernel // 2,) * 2 if a == axis else (0, 0) for a in range(3)]
            padded = np.pad(expected, widths, mode="reflect")
            expected = np.apply_along_axis(np.convolve, axis, padded, weights / weights.sum(), mode="valid")
        np.testing.assert_allclose(result[i].numpy(), expected, atol=1e-5)


def test_resampling_matrices_by_hand() -> None:
    matrix = resampling_matrices(
        torch.tensor([1]), torch.tensor([2]), torch.tensor([True]), torch.tensor([0.0]), side=4
    )[0]
    # the crop of pixels 1 and 2, doubled: centres at 1 (clamped), 1.25, 1.75 and 2 (clamped); then flipped
    expected = [[0, 0, 1, 0], [0, 0.25, 0.75, 0], [0, 0.75, 0.25, 0], [0, 1, 0, 0]]
    torch.testing.assert_close(matrix, torch.tensor(expected))


def test_transposing_with_flips_makes_quarter_turns() -> None:
    images, parameters = _images(1, 9), _identity(1, 9)
    parameters["transpose"][0] = True
    parameters["flip_y"][0] = True
    torch.testing.assert_close(augment(images, parameters), torch.rot90(to_float(images), 1, (2, 3)), rtol=0, atol=1e-5)
    corner_only = {name: parameters[name] for name in ("flip_x", "flip_y", "transpose")}  # the path without crops
    assert torch.equal(augment(images, corner_only), torch.rot90(to_float(images), 1, (2, 3)))


@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_colour_factors_equal_pil(name: str, enhance: type) -> None:
    factors = torch.tensor([0.2, 0.7, 1.0, 1.8])
    images, parameters = _images(4, 16), _identity(4, 16) | {name: factors}
    result = augment(images, parameters)
    for i, factor in enumerate(factors.tolist()):
        picture = Image.fromarray(images[i].permute(1, 2, 0).numpy())
        expected = np.asarray(enhance(picture).enhance(factor)).transpose(2, 0, 1) / 255
        np.testing.assert_allclose(result[i].numpy(), expected, atol=2.1 / 255)  # PIL rounds twice


def test_hue_equals_a_turn_in_yiq_pixel_by_pixel() -> None:
    images, parameters = _images(2, 8), _identity(2, 8) | {"hue": torch.tensor([0.2, -0.1])}
    result = augment(images, parameters)
    for i, angle in enumerate((0.2 * 2 * np.pi, -0.1 * 2 * np.pi)):
        for row, column in np.ndindex(8, 8):
            y, in_phase, quadrature = colorsys.rgb_to_yiq(*(images[i, :, row, column].numpy() / 255))
            turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ (
                in_phase,
                quadrature,
            )
            expected = colorsys.yiq_to_rgb(y, *turned)  # clips
            np.testing.assert_allclose(result[i, :, row, column].numpy(), expected, atol=0.03)  # colorsys: 2 decimals


def test_hue_and_saturation_leave_grey_and_brightness_alone() -> None:
    grey = torch.rand(1, 1, 4, 4).expand(5, 3, 4, 4).clone()
    parameters = _identity(5, 4) | {"hue": torch.linspace(-0.5, 0.5, 5), "saturation": torch.linspace(0, 2, 5)}
    torch.testing.assert_close(change_colours(grey.clone(), parameters), grey, rtol=0, atol=1e-5)


def test_grey_equals_pils_luma() -> None:
    images, parameters = _images(2, 12), _identity(2, 12)
    parameters["grey"][:] = True
    result = augment(images, parameters)
    assert torch.allclose(result[:, 0], result[:, 1])
    expected = np.asarray(Image.fromarray(images[1].permute(1, 2, 0).numpy()).convert("L")) / 255
    np.testing.assert_allclose(result[1, 0].numpy(), expected, atol=1 / 255)


def test_all_colour_changes_together_equal_them_one_by_one() -> None:
    x = to_float(_images(6, 10)) * 0.5 + 0.25  # away from the ends, where clipping between the steps would differ
    small = {
        "brightness": torch.linspace(0.9, 1.1, 6),
        "contrast": torch.linspace(1.1, 0.9, 6),
        "saturation": torch.linspace(0.9, 1.1, 6),
        "hue": torch.linspace(-0.02, 0.02, 6),
        "grey": torch.arange(6) == 3,
    }
    step_by_step = x.clone()
    for name, values in small.items():
        step_by_step = change_colours(step_by_step, _identity(6, 10) | {name: values})
    torch.testing.assert_close(change_colours(x.clone(), _identity(6, 10) | small), step_by_step, rtol=0, atol=1e-5)


def test_stain_jitter_equals_solving_for_each_pixels_stains() -> None:
    images = _images(2, 6)
    scale, shift = torch.tensor([[1.2, 0.8, 1.0], [0.9, 1.1, 1.05]]), torch.tensor([[0.05, -0.02, 0.01], [0.0, 0.1, 0]])
    result = change_stains(to_float(images), scale, shift)
    directions = np.array(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)
    for i in range(2):
        for row, column in np.ndindex(6, 6):
            density = -np.log((images[i, :, row, column].numpy() + 1.0) / 256)
            amounts = np.linalg.solve(directions.T, density) * scale[i].numpy() + shift[i].numpy()
            expected = (256 * np.exp(-directions.T @ amounts) - 1) / 255
            np.testing.assert_allclose(result[i, :, row, column].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("recipe", RECIPES)
def test_any_slicing_of_a_global_draw_gives_the_same_images(recipe: Recipe) -> None:
    images = _images(12, 28)
    parameters = draw(AugmentConfig(recipe=recipe), 12, 28, _generator(4))
    whole = augment(images, parameters)
    for rows in (slice(0, 6), slice(6, 12), slice(3, 4), slice(0, 12, 3)):
        part = augment(images[rows], {name: tensor[rows] for name, tensor in parameters.items()})
        torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-6)


def test_a_row_does_not_depend_on_the_others() -> None:
    images = _images(8, 28)
    parameters = draw(AugmentConfig(recipe="histology"), 8, 28, _generator(1))
    before = augment(images, parameters)[3]
    other = draw(AugmentConfig(recipe="histology"), 8, 28, _generator(2))
    mixed = {name: torch.cat([other[name][:3], tensor[3:4], other[name][4:]]) for name, tensor in parameters.items()}
    changed = _images(8, 28, seed=9)
    changed[3] = images[3]
    torch.testing.assert_close(augment(changed, mixed)[3], before, rtol=0, atol=1e-6)


def test_the_images_are_left_alone() -> None:
    images = _images(4, 16)
    copy = images.clone()
    for recipe in RECIPES:
        augment(images, draw(AugmentConfig(recipe=recipe), 4, 16, _generator(0)))
    assert torch.equal(images, copy)


def test_channels_last_memory_and_autocast_change_nothing() -> None:
    images = _images(4, 28)
    parameters = draw(AugmentConfig(recipe="histology"), 4, 28, _generator(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = augment(images.contiguous(memory_format=torch.channels_last), parameters)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, augment(images, parameters), rtol=0, atol=1e-6)


@settings(max_examples=40)
@given(
    recipe=st.sampled_from(RECIPES), side=st.integers(2, 40), seed=st.integers(0, 2**40), constant=st.integers(-1, 255)
)
def test_results_are_in_range_and_repeatable(recipe: Recipe, side: int, seed: int, constant: int) -> None:
    images = _images(5, side) if constant < 0 else torch.full((5, 3, side, side), constant, dtype=torch.uint8)
    config = AugmentConfig(recipe=recipe)
    first = augment(images, draw(config, 5, side, _generator(seed)))
    assert first.shape == images.shape
    assert first.dtype == torch.float32
    assert ((first >= 0) & (first <= 1)).all()  # NaN compares false
    assert torch.equal(first, augment(images, draw(config, 5, side, _generator(seed))))


def _torchvision_crop(random: np.random.Generator, side: int) -> tuple[int, int]:
    """(height, width) as torchvision's RandomResizedCrop.get_params draws them."""
    for _ in range(10):
        area = side**2 * random.uniform(0.08, 1)
        ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        width, height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < width <= side and 0 < height <= side:
            return height, width
    return side, side


def test_crops_are_drawn_as_torchvision_draws_them() -> None:
    crop = draw(AugmentConfig(recipe="simclr"), 20_000, 96, _generator(0))["crop"].numpy()
    top, left, height, width = crop.T
    assert min(top.min(), left.min()) == 0
    assert max((top + height).max(), (left + width).max()) == 96
    random = np.random.default_rng(0)
    expected = np.array([_torchvision_crop(random, 96) for _ in range(20_000)])
    for ours, theirs in ((height, expected[:, 0]), (width, expected[:, 1]), (height * width, expected.prod(axis=1))):
        shares = np.linspace(0, 1, 11)
        np.testing.assert_allclose(np.quantile(ours, shares), np.quantile(theirs, shares), rtol=0.05)
    slack = (96 - width) > 40
    assert abs((left[slack] / (96 - width[slack])).mean() - 0.5) < 0.01


def test_draws_follow_the_probabilities_and_strengths() -> None:
    drawn = draw(AugmentConfig(recipe="simclr"), 20_000, 28, _generator(0))
    for name, share in (("flip_x", 0.5), ("flip_y", 0.5), ("grey", 0.2)):
        assert abs(drawn[name].float().mean() - share) < 0.02
    assert abs((drawn["sigma"] > 0).float().mean() - 0.5) < 0.02
    assert abs((drawn["brightness"] == 1).float().mean() - 0.2) < 0.02
    assert 0.2 <= drawn["contrast"].min() < 0.21
    assert 1.79 < drawn["saturation"].max() <= 1.8
    assert drawn["hue"].abs().max() <= 0.2
    assert not (drawn["flip_x"] == drawn["flip_y"]).all()


def test_a_field_overrides_its_recipe() -> None:
    assert draw(AugmentConfig(recipe="weak"), 3, 28, _generator(0)).keys() == {"flip_x", "flip_y"}
    mild = draw(AugmentConfig(recipe="simclr", crop_scale_min=0.9, grey_probability=0), 100, 96, _generator(0))
    assert (mild["crop"][:, 2] * mild["crop"][:, 3]).min() > 0.88 * 96**2
    assert not mild["grey"].any()
    with pytest.raises(ValidationError, match="recipe"):
        AugmentConfig.model_validate({"recipe": "strong"})
    with pytest.raises(ValidationError, match="crop_scale_min"):
        AugmentConfig(crop_scale_min=0)
