"""Batched augmentation with parameters of its own for every image, on the device of the images.

    draw(config, num_images, side_px, generator) -> parameters, each (num_images, ...), on the CPU
    augment(images (n, 3, side, side) uint8, parameters) -> (n, 3, side, side) float32 in [0, 1]

Every rank draws the parameters of the global batch and takes its rows, so any number of ranks sees the same images.
The order is: transpose, crop + resize + flips + blur, stain, brightness, contrast, saturation, hue, grey.

Three choices make it fast (simclr, one core of a Xeon: 40,000 images/s at 28 px, 3,200 at 96 px, 400 at 224 px):
* crop, bilinear resize, flip and Gaussian blur are linear and separable: an image is multiplied from the left and from
  the right by one small matrix each, which both a CPU's and a GPU's libraries do near their peak.
* hue is a rotation in YIQ, not HSV: linear too, so contrast, saturation, hue and grey are one 3 x 3 matrix and a shift.
* therefore the order of the colour changes is fixed, where torchvision shuffles it for each image; the blur comes
  before them, where SimCLR (arXiv 2002.05709) blurs last; and colours are clipped after the brightness and at the end,
  not after each step. The clipping after the brightness stays because the contrast's mean must not exceed white.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor

Parameters = dict[str, Tensor]

WEAK = {"crop_scale_min": 1.0, "grey_probability": 0.0, "blur_probability": 0.0, "jitter_probability": 0.0}
WEAK |= dict.fromkeys(("turn_probability", "stain_scale", "stain_shift"), 0.0)
WEAK |= dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
COLOUR = {"jitter_probability": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
LIGHT_COLOUR = {"jitter_probability": 0.8, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.02}
TURNS_AND_STAIN = {"turn_probability": 0.5, "stain_scale": 0.2, "stain_shift": 0.05}
# what the recipes mean; a field of the section overrides its recipe's value
RECIPES: dict[str, dict[str, float]] = {
    "weak": WEAK,
    "simclr": {**WEAK, **COLOUR, "crop_scale_min": 0.08, "grey_probability": 0.2, "blur_probability": 0.5},
    "histology": {**WEAK, **LIGHT_COLOUR, **TURNS_AND_STAIN, "crop_scale_min": 0.4, "blur_probability": 0.3},
}

CROP_ATTEMPTS = 10  # as torchvision's RandomResizedCrop; after that the whole image
RATIO_MAX = 4 / 3
BLUR_KERNEL_SHARE = 0.06  # of the side, odd, at least 3 px; sigma in px; both as in DSMIL's SimCLR
SIGMA_RANGE = (0.1, 2.0)

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in PIL and torchvision
RGB_TO_YIQ = (LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
# rows: optical densities in R, G, B of haematoxylin, eosin and DAB (Ruifrok and Johnston, 2001)
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
DARKEST = 1 / 255  # added before the logarithm


class AugmentConfig(BaseModel):
    """A section such as `pretrain.augment`: how the views of a patch are made. A field left out is as in the recipe."""

    model_config = ConfigDict(extra="forbid")

    recipe: Literal["simclr", "weak", "histology"] = Field(
        default="simclr",
        description="simclr: crops, flips, strong colour jitter, grey, blur (arXiv 2002.05709); weak: flips only; "
        "histology: milder crops, flips, quarter turns, stain jitter (Tellez et al. 2018), light colour jitter, blur",
    )
    crop_scale_min: float | None = Field(
        default=None, gt=0, le=1, description="smallest crop as a share of the patch's area; 1 = never crop"
    )
    turn_probability: float | None = Field(
        default=None, ge=0, le=1, description="share of images transposed; with the flips 0.5 gives all 8 orientations"
    )
    stain_scale: float | None = Field(
        default=None, ge=0, lt=1, description="each stain's density is multiplied by 1 +- this"
    )
    stain_shift: float | None = Field(
        default=None, ge=0, lt=1, description="+- this optical density (natural logarithm) is added to each stain"
    )
    jitter_probability: float | None = Field(
        default=None, ge=0, le=1, description="share of images whose brightness, contrast, saturation and hue change"
    )
    brightness: float | None = Field(
        default=None, ge=0, description="colours are multiplied by 1 +- this (not below 0)"
    )
    contrast: float | None = Field(
        default=None, ge=0, description="distances to the mean grey are multiplied by 1 +- this (not below 0)"
    )
    saturation: float | None = Field(
        default=None, ge=0, description="distances to the pixel's own grey are multiplied by 1 +- this (not below 0)"
    )
    hue: float | None = Field(default=None, ge=0, le=0.5, description="hue is turned by +- this share of a full turn")
    grey_probability: float | None = Field(default=None, ge=0, le=1, description="share of images made grey")
    blur_probability: float | None = Field(
        default=None, ge=0, le=1, description="share of images blurred, with a Gaussian sigma of 0.1 to 2 px"
    )

    def strength(self, field: str) -> float:
        """Return the value of a strength field, the recipe's where none is given."""
        own: float | None = getattr(self, field)
        return RECIPES[self.recipe][field] if own is None else own


def draw(config: AugmentConfig, num_images: int, side_px: int, generator: Generator) -> Parameters:
    """Draw the parameters of `num_images` augmentations; the same generator state gives the same on any machine.

    Args:
        config: what to draw from.
        num_images: images of the global batch.
        side_px: side of the square images.
        generator: a CPU generator.

    Returns:
        Tensors of `num_images` rows on the CPU: flip_x, flip_y, transpose () bool; crop (4,) int64: top, left, height,
        width in px; sigma () px, 0 = no blur; stain_scale, stain_shift (3,); brightness, contrast, saturation ()
        factors; hue () turns; grey () bool. A stage that the config switches off has no entry.
    """
    strength = config.strength

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(num_images, *shape, generator=generator)

    def happens(probability: float) -> Tensor:
        return torch.rand(num_images, generator=generator) < probability

    parameters = {"flip_x": happens(0.5), "flip_y": happens(0.5)}
    if strength("turn_probability") > 0:
        parameters["transpose"] = happens(strength("turn_probability"))
    if strength("crop_scale_min") < 1 or strength("blur_probability") > 0:
        parameters["crop"] = _draw_crops(strength("crop_scale_min"), num_images, side_px, generator)
        parameters["sigma"] = uniform(*SIGMA_RANGE) * happens(strength("blur_probability"))
    if max(strength("stain_scale"), strength("stain_shift")) > 0:
        parameters["stain_scale"] = 1 + uniform(-1, 1, 3) * strength("stain_scale")
        parameters["stain_shift"] = uniform(-1, 1, 3) * strength("stain_shift")
    if max(strength("jitter_probability"), strength("grey_probability")) > 0:
        jitter = happens(strength("jitter_probability"))
        for name in ("brightness", "contrast", "saturation"):
            factor = uniform(max(0.0, 1 - strength(name)), 1 + strength(name))
            parameters[name] = torch.where(jitter, factor, torch.ones(()))
        parameters["hue"] = uniform(-strength("hue"), strength("hue")) * jitter
        parameters["grey"] = happens(strength("grey_probability"))
    return parameters


def _draw_crops(scale_min: float, num_images: int, side_px: int, generator: Generator) -> Tensor:
    """Draw boxes as torchvision's RandomResizedCrop does: the first of ten that fits, else the whole image.

    Returns:
        (num_images, 4) int64: top, left, height, width.
    """
    shape = (num_images, CROP_ATTEMPTS)
    area = (scale_min + (1 - scale_min) * torch.rand(shape, generator=generator)) * side_px**2
    ratio = torch.exp((2 * torch.rand(shape, generator=generator) - 1) * math.log(RATIO_MAX))
    widths, heights = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (widths >= 1) & (widths <= side_px) & (heights >= 1) & (heights <= side_px)
    first = fits.int().argmax(dim=1, keepdim=True)
    found = fits.gather(1, first)[:, 0]
    width = torch.where(found, widths.gather(1, first)[:, 0], side_px)
    height = torch.where(found, heights.gather(1, first)[:, 0], side_px)
    corner = torch.rand(num_images, 2, generator=generator)
    top = (corner[:, 0] * (side_px - height + 1)).long().clamp(max=side_px - 1)
    left = (corner[:, 1] * (side_px - width + 1)).long().clamp(max=side_px - 1)
    return torch.stack([top, left, height, width], dim=1)


def to_float(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [0, 1], the form in which the encoder is fed without augmentation."""
    return images.float().mul_(1 / 255)


def augment(images: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """Apply drawn parameters to images; an image's result depends on its own row alone.

    Args:
        images: (n, 3, side, side) uint8 RGB, on any device.
        parameters: rows of `draw`'s result, one an image.

    Returns:
        (n, 3, side, side) float32 in [0, 1], on the images' device.
    """
    parameters = {name: tensor.to(images.device, non_blocking=True) for name, tensor in parameters.items()}
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):  # bf16 would keep 8 bits of a pixel
        if "transpose" in parameters:
            images = torch.where(_per_image(parameters["transpose"]), images.mT, images)
        x = _resample(images, parameters) if "crop" in parameters else _flip(to_float(images), parameters)
        if "stain_scale" in parameters:
            x = change_stains(x, parameters["stain_scale"], parameters["stain_shift"])
        if "brightness" in parameters:
            x = change_colours(x, parameters)
        return x.clamp_(0, 1)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _flip(x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    x = torch.where(_per_image(parameters["flip_x"]), x.flip(3), x)
    return torch.where(_per_image(parameters["flip_y"]), x.flip(2), x)


def _resample(images: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """Crop, resize, flip and blur: rows @ image @ columns^T, as float32 in [0, 1]."""
    num_images, _, side, _ = images.shape
    top, left, height, width = parameters["crop"].unbind(1)
    sigma = parameters["sigma"]
    rows = resampling_matrices(top, height, parameters["flip_y"], sigma, side)
    columns = resampling_matrices(left, width, parameters["flip_x"], sigma, side).mul_(1 / 255)
    x = images.float().reshape(num_images, 3 * side, side) @ columns.mT  # (n, 3 side, side)
    return rows[:, None] @ x.view(num_images, 3, side, side)


def resampling_matrices(start: Tensor, length: Tensor, flip: Tensor, sigma: Tensor, side: int) -> Tensor:
    """Return the matrices that crop, resize (bilinear, pixel centres at .5), flip and blur along one axis.

    Args:
        start: (n,) first pixel of the crop.
        length: (n,) pixels of the crop.
        flip: (n,) bool.
        sigma: (n,) px of the result, 0 = no blur; the edges are reflected.
        side: pixels before and after.

    Returns:
        (n, side, side) float32, each row of sum 1: output pixel i is the row's weighted sum of the input pixels.
    """
    radius = max(1, int(BLUR_KERNEL_SHARE * side) // 2)
    reached = torch.arange(-radius, side + radius, device=start.device).abs()
    reached = torch.where(reached >= side, 2 * (side - 1) - reached, reached)  # reflection at the edges
    output = torch.where(flip[:, None], side - 1 - reached, reached)  # (n, side + 2 radius)
    centre = (output + 0.5) * (length / side)[:, None] - 0.5
    centre = centre.clamp(min=0).minimum(length[:, None] - 1.0) + start[:, None]  # nothing from outside the crop
    pixels = torch.arange(side, device=start.device, dtype=torch.float32)
    linear = (centre[:, :, None] - pixels).abs_().neg_().add_(1).clamp_(min=0)  # (n, side + 2 radius, side)
    offsets = torch.arange(-radius, radius + 1, device=start.device)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None].clamp(min=0.01)).square())
    weights = weights / weights.sum(dim=1, keepdim=True)  # (n, 2 radius + 1)
    blurred = linear[:, :side] * weights[:, 0, None, None]
    for k in range(1, 2 * radius + 1):
        blurred.addcmul_(linear[:, k : k + side], weights[:, k, None, None])
    return blurred


def change_stains(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Change each image's stain densities: separate (Ruifrok and Johnston 2001), scale and shift (Tellez et al. 2018).

    Args:
        x: (n, 3, h, w) float in [0, 1].
        scale: (n, 3) factors of haematoxylin, eosin and DAB (the residual).
        shift: (n, 3) optical densities added to them.

    Returns:
        (n, 3, h, w) float, unclipped; scale 1 and shift 0 give x.
    """
    stains = x.new_tensor(STAINS)
    stains = stains / stains.norm(dim=1, keepdim=True)
    to_density, to_stain = stains.T, torch.linalg.inv(stains.T)  # both act on columns: density = stains^T @ amounts
    matrix = to_density @ (scale[:, :, None] * to_stain)  # (n, 3, 3)
    offset = to_density @ shift[:, :, None]  # (n, 3, 1)
    density = x.add(DARKEST).div_(1 + DARKEST).log_().flatten(2)  # negative densities: the sign is folded into `offset`
    changed = torch.baddbmm(-offset, matrix, density)
    return changed.exp_().mul_(1 + DARKEST).sub_(DARKEST).view_as(x)


def change_colours(x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """Change brightness, contrast, saturation and hue, in this order, and make grey.

    Args:
        x: (n, 3, h, w) float; changed in place.
        parameters: brightness, contrast, saturation, hue, grey, each (n,), see `draw`.

    Returns:
        (n, 3, h, w) float, unclipped; factors 1, hue 0 and no grey give x clipped to [0, 1].
    """
    luma = x.new_tensor(LUMA)
    x = x.mul_(_per_image(parameters["brightness"])).clamp_(0, 1)
    mean_grey = x.mean(dim=(2, 3)) @ luma  # (n,)
    contrast = parameters["contrast"]
    matrix = contrast[:, None, None] * _colour_matrices(parameters["saturation"], parameters["hue"], parameters["grey"])
    # All these matrices keep grey as it is, so contrast's shift towards the mean grey passes through them unchanged.
    shift = ((1 - contrast) * mean_grey)[:, None, None]
    return torch.baddbmm(shift, matrix, x.flatten(2)).view_as(x)


def _colour_matrices(saturation: Tensor, hue: Tensor, grey: Tensor) -> Tensor:
    """Return (n, 3, 3): saturation, then a turn by `hue` in YIQ, then grey."""
    eye = torch.eye(3, device=hue.device)
    to_yiq = hue.new_tensor(RGB_TO_YIQ)
    to_grey = to_yiq[0].expand(3, 3)  # each row the luma
    saturate = to_grey + saturation[:, None, None] * (eye - to_grey)
    cos, sin = torch.cos(2 * math.pi * hue), torch.sin(2 * math.pi * hue)
    zero, one = torch.zeros_like(hue), torch.ones_like(hue)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
    coloured = torch.linalg.inv(to_yiq) @ turn @ to_yiq @ saturate
    return torch.where(grey[:, None, None], to_grey, coloured)
