"""A network that is not ours as a patch encoder: what it wants of its input, its forward pass, its pooling, in one module.

    images (batch, 3, h, w) in [0, 1] -> input: resize, normalise -> network -> pooling -> features (batch, feature_dim)
"""

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from hnm.encoder.network_input import NetworkInput
from hnm.encoder.spec import NetworkSpec
from hnm.encoder.timm_models import build_timm
from shards.errors import InputError

PROBE_PX = 224  # of a network that does not say which side it wants


class ForeignEncoder(nn.Module):
    """A network of others, with the contract of our own.

    Attributes:
        spec: what it was built from.
        input: what is done to the patches first.
        network: theirs; its tensors keep their names.
        feature_dim: length of a feature vector.
    """

    def __init__(self, spec: NetworkSpec, weights_follow: bool = False) -> None:
        super().__init__()
        self.spec = spec
        self.input = NetworkInput(spec.input)
        uninitialised = _without_weights(spec) if weights_follow and spec.source == "timm" else None
        if uninitialised is not None:
            self.network, self.feature_dim = uninitialised
        else:
            self.network = build_timm(spec) if spec.source == "timm" else build_by_factory(spec)
            self.feature_dim = _feature_dim(self.network, spec)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of a batch of patches.

        Args:
            images: (batch, 3, h, w) float, RGB in [0, 1].

        Returns:
            (batch, feature_dim) float.

        Raises:
            InputError: the network returns no matrix.
        """
        return _features(self.network, self.input(images), self.spec)


def _features(network: nn.Module, images: Tensor, spec: NetworkSpec) -> Tensor:
    """Return the pooled features of images that are as the network wants them."""
    if spec.pooling == "own":
        return _require_matrix(network(images), spec.name)
    tokens = network.forward_features(images)  # type: ignore[operator]
    first_patch: Any = network.num_prefix_tokens  # class and register tokens stand before the patches'
    return torch.cat([tokens[:, 0], tokens[:, first_patch:].mean(1)], dim=1)


@torch.no_grad()
def _feature_dim(network: nn.Module, spec: NetworkSpec) -> int:
    """Look what comes out for a black patch: the length of the features, and whether the network takes this side."""
    side, was_training = spec.input.side_px or PROBE_PX, network.training
    device = next((tensor.device for tensor in network.state_dict().values()), torch.device("cpu"))
    network.eval()
    try:
        return int(_features(network, torch.zeros(1, 3, side, side, device=device), spec).shape[1])
    except InputError:
        raise
    except Exception as error:  # a stranger's network raises anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"encoder.name={spec.name}: the network refuses a picture of {side} x {side} px ({reason}). "
            "Set encoder.side_px to what it takes"
        ) from error
    finally:
        network.train(was_training)


def _without_weights(spec: NetworkSpec) -> tuple[nn.Module, int] | None:
    """Return a timm network whose tensors hold nothing yet, and its features' length; None: it cannot be had that way.

    Random weights that a file replaces at once cost a ViT-L 30 s on one core, and every round loads an encoder.
    """
    try:
        with torch.device("meta"):
            network = build_timm(spec)
            feature_dim = _feature_dim(network, spec)
    except (InputError, NotImplementedError):
        return None  # what is wrong is found out with real tensors
    if {name for name, _ in network.named_buffers()} - network.state_dict().keys():
        return None  # some buffers are in no file
    network.to_empty(device="cpu")
    for name, buffer in network.named_buffers():
        if name.endswith("num_batches_tracked"):  # old files have none
            buffer.zero_()
    return network, feature_dim


def _require_matrix(features: Any, name: str) -> Tensor:
    if not isinstance(features, Tensor):
        raise InputError(
            f"encoder.name={name}: the network returns a {type(features).__name__} instead of a tensor (batch, features). "
            "Let your factory return a module that gives the features alone"
        )
    if features.dim() != 2:
        raise InputError(
            f"encoder.name={name}: the network returns a tensor of shape {tuple(features.shape)}, a map or tokens, instead of "
            "(batch, features). Let your factory return a module that pools it, such as nn.Sequential(net, "
            "nn.AdaptiveAvgPool2d(1), nn.Flatten())"
        )
    return features


def build_by_factory(spec: NetworkSpec) -> nn.Module:
    """Return what a user's function MODULE:FACTORY returns.

    Raises:
        InputError: there is no such function, it fails, or returns no module.
    """
    module_name, _, function_name = spec.network.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(
            f"encoder.name={spec.name}: cannot import {module_name} ({error}). Install it, or put its folder on PYTHONPATH"
        ) from error
    factory = getattr(module, function_name, None)
    if not callable(factory):
        raise InputError(f"encoder.name={spec.name}: {module_name} ({module.__file__}) has no function {function_name}")
    try:
        network = factory(**spec.arguments)
    except Exception as error:  # whatever a user's function raises; the traceback is kept
        raise InputError(
            f"encoder.name={spec.name}: {spec.network}() raised {type(error).__name__}: {error}. Call it alone to mend it"
        ) from error
    if not isinstance(network, nn.Module):
        raise InputError(f"encoder.name={spec.name}: {spec.network}() returns a {type(network).__name__}, no torch.nn.Module")
    return network
