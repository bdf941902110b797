"""The patch encoder: a plain ResNet whose parameters carry torchvision's names, and the head of the contrastive loss.

    images (batch, 3, h, w) -> stem -> layer1..4 -> mean over the map -> features (batch, feature_dim)
                                                                            |
                        contrastive loss only, unit length:  ProjectionHead -> (batch, projection_dim)

The method's encoder is ResNet-18 with instance norm (torch defaults: no affine, no running statistics), as in DSMIL
(Li et al., CVPR 2021, arXiv 2011.08939); the architecture is He et al., CVPR 2016 (arXiv 1512.03385).
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.distributed
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from shards.errors import InputError

Norm = Callable[[int], nn.Module]

# (blocks in layer1..4, output channels of a block per channel of its width)
ARCHITECTURES = {"resnet18": ((2, 2, 2, 2), 1), "resnet50": ((3, 4, 6, 3), 4)}


class EncoderConfig(BaseModel):
    """The section `encoder`: which network turns a patch into a feature vector."""

    model_config = ConfigDict(extra="forbid")

    architecture: Literal["resnet18", "resnet50"] = Field(
        default="resnet18",
        description="depth of the ResNet; resnet50 takes 2.3 times the arithmetic and gives 4 times longer features",
    )
    norm: Literal["instance", "batch"] = Field(
        default="instance",
        description="instance: normalise each channel of each image by itself (the method's choice, takes stain "
        "brightness out); batch: by the statistics of the global batch",
    )
    stem: Literal["imagenet", "small"] = Field(
        default="imagenet",
        description="imagenet: 7x7 convolution of stride 2 and a max pool (map = side / 32); small: 3x3 of stride 1 "
        "and no pool (map = side / 8), for patches under about 64 px; 16 times the work at the same side",
    )
    width: float = Field(
        default=1.0,
        ge=1 / 64,
        description="multiplier of all channel counts; 1.0 = 64 base channels and 512 features (resnet18)",
    )
    projection_dim: int = Field(
        default=256, ge=1, description="length of the projected vector that the contrastive loss compares"
    )


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


class Encoder(nn.Module):
    """A ResNet without its classifier.

    Attributes:
        config: what it was built from.
        feature_dim: length of a feature vector (512 * width for resnet18, 2048 * width for resnet50).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
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


def build_encoder(config: EncoderConfig) -> Encoder:
    """Return a freshly initialised encoder (seed torch before, if the weights are to be the same on all ranks)."""
    return Encoder(config)


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
        return F.normalize(_at_least_float32(projected), dim=1)


def use_global_batch_norm(module: nn.Module, world_size: int) -> nn.Module:
    """Make every batch norm of `module` take its training statistics over all ranks; call it after `.to(device)`.

    Every rank must call it, and afterwards every rank must run the same forward and backward passes in training mode
    together. N ranks then compute what one process computes on the concatenated batch.

    Args:
        module: the network; with instance norm nothing changes.
        world_size: number of ranks; with 1 nothing changes.

    Returns:
        The module, with its batch norms replaced (parameters, buffers and their names are kept).
    """
    if world_size == 1:
        return module
    if any(parameter.is_cuda for parameter in module.parameters()):
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return converted
    if isinstance(module, nn.BatchNorm2d):
        return _GlobalBatchNorm2d.of(module)
    for name, child in module.named_children():
        setattr(module, name, use_global_batch_norm(child, world_size))
    return module


class _GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over all ranks on gloo, where torch's SyncBatchNorm refuses to run."""

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> "_GlobalBatchNorm2d":
        """Return a copy that shares the parameters and buffers of `norm`."""
        copy = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        copy.weight, copy.bias = norm.weight, norm.bias
        copy.running_mean, copy.running_var = norm.running_mean, norm.running_var
        copy.num_batches_tracked = norm.num_batches_tracked
        return copy.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = _at_least_float32(input)  # (batch, channels, h, w)
        count = x.new_tensor([x.numel() / x.shape[1]])
        sums = _all_reduce_sum(torch.cat([x.sum(dim=(0, 2, 3)), count]))
        num, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        centred = x - mean[None, :, None, None]
        # Squared deviations in a second reduction: E[x^2] - mean^2 in one would lose the digits that the test checks.
        variance = _all_reduce_sum(centred.square().sum(dim=(0, 2, 3))) / num
        self._update_running(mean.detach(), variance.detach() * num / (num - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[None, :, None, None] + self.bias[None, :, None, None]).to(input.dtype)

    def _update_running(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased_variance.to(self.running_var.dtype), share)


class _AllReduceSum(torch.autograd.Function):
    """A sum over ranks; its gradient is the sum over ranks of the gradients (each rank's loss depends on the sum)."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


def _all_reduce_sum(tensor: Tensor) -> Tensor:
    result: Tensor = _AllReduceSum.apply(tensor)
    return result


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
