"""Encoder and aggregator as ONNX, checked against what torch computes, with onnxruntime.

encoder.onnx      images (n, 3, side, side) float32 RGB in [0, 1] ──▶ features (n, d); normalisation is inside
aggregator.onnx   features (patches, d) of one slide ──▶ slide_score (), patch_scores (patches,)
"""

import contextlib
import copy
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hnm.aggregator.aggregators import Aggregator, Correlated, Ensemble, Single
from hnm.encoder.foreign import ForeignEncoder
from hnm.encoder.networks import Encoder
from hnm.model.export import ONNX_FILES
from hnm.model.model import Model
from shards.errors import InputError
from shards.files import whole_file

ENCODER_ONNX, AGGREGATOR_ONNX = ONNX_FILES
OPSET = 17
TOLERANCE = 1e-3  # of the largest number: float32, summed in another order
NUM_CHECKED = 3  # patches a check; another number than was traced


class OneSlide(nn.Module):
    """An aggregator for one slide: features (patches, d) to the slide's score and the patches' scores, 0 to 1."""

    def __init__(self, aggregator: Aggregator) -> None:
        super().__init__()
        self.aggregator = aggregator

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        members: Any = self.aggregator.members if isinstance(self.aggregator, Ensemble) else [self.aggregator]
        logits = torch.stack([_logits(member, features) for member in members]).mean(0)
        return logits.sigmoid().mean(), self.aggregator.score(features).sigmoid()


def _logits(member: Single, features: Tensor) -> Tensor:
    """Return (2,): the bag logit and the highest instance logit, as `hnm.aggregator.score.predict_bag` does at once."""
    if isinstance(member, Correlated):
        return member.bag_logit(lambda: [features]).expand(2)
    scores = member.score(features)
    highest = scores.max()
    if member.bag_is_highest:
        return torch.stack([highest, highest])
    exponents, values = member.weigh(features, features[scores.argmax()][None])
    bag = member.classify((exponents.softmax(0) @ values)[None])[0]
    return torch.stack([bag, highest if member.two_streams else bag])


def export_onnx(model: Model, folder: Path) -> list[str]:
    """Write encoder.onnx and aggregator.onnx, and compare each with torch.

    Returns:
        What was written and how near it is, line by line.

    Raises:
        InputError: onnx or onnxruntime is missing, an operation has no ONNX, or the results differ.
    """
    _require_packages()
    side = model.encoder.input.spec.side_px or model.config.tile.patch_px
    random = torch.Generator().manual_seed(0)
    images = torch.rand((2, 3, side, side), generator=random)
    features = torch.randn((NUM_CHECKED + 4, model.encoder.feature_dim), generator=random)
    encoder, aggregator = model.encoder.cpu().eval(), OneSlide(model.aggregator.cpu()).eval()
    batch = {"images": {0: "n"}, "features": {0: "n"}}
    bag = {"features": {0: "patches"}, "patch_scores": {0: "patches"}}
    _write(folder / ENCODER_ONNX, _of_one_side(encoder, side), images, ["images"], ["features"], batch)
    _write(folder / AGGREGATOR_ONNX, aggregator, features, ["features"], ["slide_score", "patch_scores"], bag)
    more = torch.rand((NUM_CHECKED, 3, side, side), generator=random)
    error = (
        compare(folder / ENCODER_ONNX, encoder, more),
        compare(folder / AGGREGATOR_ONNX, aggregator, features[:NUM_CHECKED]),
    )
    note = f"; patches must have {side} px: resize them before" if model.encoder.input.spec.side_px else ""
    return [
        f"{folder / ENCODER_ONNX}: images (n, 3, {side}, {side}) RGB in [0, 1]; off by {error[0]:.1e} in onnxruntime{note}",
        f"{folder / AGGREGATOR_ONNX}: features of one slide to its score and its patches'; off by {error[1]:.1e} in onnxruntime",
    ]


def _of_one_side(encoder: Encoder, side_px: int) -> Encoder:
    """Return an encoder that takes this side only: ONNX has no antialiased interpolation of a ViT's position embedding."""
    if not isinstance(encoder, ForeignEncoder) or not encoder.spec.arguments.get("dynamic_img_size"):
        return encoder
    fixed = copy.deepcopy(encoder)
    fixed.network.set_input_size(img_size=side_px)  # type: ignore[operator]  # timm's: it interpolates once
    return fixed


def compare(path: Path, module: nn.Module, given: Tensor) -> float:
    """Return how far onnxruntime is from torch, as a share of the largest number.

    Raises:
        InputError: further than `TOLERANCE`.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: given.numpy()})
    with torch.no_grad():
        expected = module(given)
    expected = [expected] if isinstance(expected, Tensor) else list(expected)
    errors = [
        float(np.abs(one - other.numpy()).max() / max(1e-6, other.abs().max().item()))
        for one, other in zip(found, expected, strict=True)
    ]
    if not max(errors) < TOLERANCE:
        raise InputError(
            f"{path}: onnxruntime's results are off by {max(errors):.1e} of the largest number. Do not use this file"
        )
    return max(errors)


def _write(
    path: Path, module: nn.Module, given: Tensor, inputs: list[str], outputs: list[str], axes: dict[str, Any]
) -> None:
    with whole_file(path) as temporary, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of tracing: sizes are checked once, and the result is compared below
        try:
            torch.onnx.export(
                module, (given,), str(temporary), input_names=inputs, output_names=outputs, dynamic_axes=axes,
                opset_version=OPSET, dynamo=False,
            )  # fmt: skip
        except Exception as error:  # torch raises a kind of its own for each operation that has no ONNX
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{path}: this network cannot be written as ONNX ({reason}). Leave --onnx out") from error


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401 - torch writes with it
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(f"--onnx needs {error.name}, which is not installed: pip install 'hnm[exchange]'") from None
