"""The patch encoder: a plain ResNet whose parameters carry torchvision's names, and the head of the contrastive loss.

    images (batch, 3, h, w) -> stem -> layer1..4 -> mean over the map -> features (batch, feature_dim)
                                                                            |
                        contrastive loss only, unit length:  ProjectionHead -> (batch, projection_dim)

The method's encoder is ResNet-18 with instance norm (torch defaults: no affine, no running statistics), as in DSMIL
(Li et al., CVPR 2021, arXiv 2011.08939); the architecture is He et al., CVPR 2016 (arXiv 1512.03385).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.network_input import NetworkInput
from hnm.encoder.spec import InputSpec
from shards.errors import InputError

Norm = Callable[[int], nn.Module]

# (blocks in layer1..4, output channels of a block per channel of its width)
ARCHITECTURES = {"resnet18": ((2, 2, 2, 2), 1), "resnet50": ((3, 4, 6, 3), 4)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18)."""

    def __init__(self, num_in: int, num_width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_width, 3, stride, padding=1, bias=False)
        self.bn1 = norm(num_width)
        self.conv2 = nn.Conv2d(num_width, num_width, 3, padding=1, bias=False)
        self.bn2 = norm(num_width)
        self.downsample = _shortcut(num_in, num_width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (ResNet-50); the stride is on the 3x3, as in torchvision."""

    def __init__(self, num_in: int, num_width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_width, 1, bias=False)
        self.bn1 = norm(num_width)
        self.conv2 = nn.Conv2d(num_width, num_width, 3, stride, padding=1, bias=False)
        self.bn2 = norm(num_width)
        self.conv3 = nn.Conv2d(num_width, num_width * 4, 1, bias=False)
        self.bn3 = norm(num_width * 4)
        self.downsample = _shortcut(num_in, num_width * 4, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(num_in: int, num_out: int, stride: int, norm: Norm) -> nn.Sequential | None:
    if stride == 1 and num_in == num_out:
        return None
    return nn.Sequential(nn.Conv2d(num_in, num_out, 1, stride, bias=False), norm(num_out))


class ResNet(nn.Module):
    """A ResNet without its classifier.

    Attributes:
        config: what it was built from.
        input: what is done to the patches first.
        feature_dim: length of a feature vector (512 * width for resnet18, 2048 * width for resnet50).
    """

    def __init__(self, config: EncoderConfig, wanted: InputSpec | None = None) -> None:
        super().__init__()
        self.config = config
        self.input = NetworkInput(wanted or InputSpec())
        num_blocks, expansion = ARCHITECTURES[config.architecture]
        norm: Norm = nn.InstanceNorm2d if config.norm == "instance" else nn.BatchNorm2d
        base = round(64 * config.width)
        self.feature_dim = base * 8 * expansion
        if config.stem == "imagenet":
            self.conv1 = nn.Conv2d(3, base, 7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = nn.Conv2d(3, base, 3, padding=1, bias=False)
        self.bn1 = norm(base)
        self.layer1 = _layer(config, base, base, num_blocks[0], 1, norm)
        self.layer2 = _layer(config, base * expansion, base * 2, num_blocks[1], 2, norm)
        self.layer3 = _layer(config, base * 2 * expansion, base * 4, num_blocks[2], 2, norm)
        self.layer4 = _layer(config, base * 4 * expansion, base * 8, num_blocks[3], 2, norm)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Return the pooled features of a batch of patches.

        Args:
            images: (batch, 3, h, w) float, RGB in [0, 1].

        Returns:
            (batch, feature_dim) float.

        Raises:
            InputError: the patches are too small for this architecture and norm.
        """
        images = self.input(images)
        self._check_size(images)
        x = F.relu(self.bn1(self.conv1(images)))  # (batch, base, h / 2 or h, ...)
        if self.config.stem == "imagenet":
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (batch, feature_dim, h / 32 or h / 8, ...)
        return x.mean(dim=(2, 3))

    def _check_size(self, images: Tensor) -> None:
        """Refuse a 1 x 1 last map: the spread of one number, by which instance norm divides, is 0."""
        reduction = 32 if self.config.stem == "imagenet" else 8
        height, width = images.shape[-2:]
        if self.config.norm == "instance" and max(height, width) <= reduction:
            small_stem_helps = self.config.stem == "imagenet" and max(height, width) > 8
            smaller_stem = "set encoder.stem=small, " if small_stem_helps else ""
            raise InputError(
                f"patches of {width} x {height} px leave a 1 x 1 map, which encoder.norm=instance cannot normalise "
                f"(encoder.stem={self.config.stem} needs more than {reduction} px). "
                f"Remedy: {smaller_stem}tile larger patches, or set encoder.norm=batch"
            )


def _layer(
    config: EncoderConfig, num_in: int, num_width: int, num_blocks: int, stride: int, norm: Norm
) -> nn.Sequential:
    expansion = ARCHITECTURES[config.architecture][1]
    block = BasicBlock if config.architecture == "resnet18" else Bottleneck
    first = block(num_in, num_width, stride, norm)
    return nn.Sequential(first, *[block(num_width * expansion, num_width, 1, norm) for _ in range(num_blocks - 1)])


def _initialise(module: nn.Module) -> None:
    """He initialisation of convolutions, as torchvision does it; norms keep torch's defaults."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class ProjectionHead(nn.Module):
    """feature_dim -> feature_dim -> ReLU -> projection_dim, for the contrastive loss only (arXiv 2002.05709)."""

    def __init__(self, feature_dim: int, projection_dim: int) -> None:
        super().__init__()
        self.l1 = nn.Linear(feature_dim, feature_dim)
        self.l2 = nn.Linear(feature_dim, projection_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Return unit-length projections, in float32 at least even under autocast: the loss divides them by tau.

        Args:
            features: (batch, feature_dim) float.

        Returns:
            (batch, projection_dim), float32 (float64 for float64 features), each row of length 1.
        """
        projected = self.l2(F.relu(self.l1(features)))
        return F.normalize(at_least_float32(projected), dim=1)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or as it is in float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
