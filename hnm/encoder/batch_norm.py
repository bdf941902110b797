"""Batch norm over all ranks: N ranks compute what one process computes on the concatenated batch."""

from collections.abc import Collection
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from hnm.encoder.resnet import at_least_float32
from shards.errors import InputError


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
        return _synchronised(module)
    if isinstance(module, nn.BatchNorm2d):
        return _GlobalBatchNorm2d.of(module)
    for name, child in module.named_children():
        setattr(module, name, use_global_batch_norm(child, world_size))
    return module


def refuse_chunks(model: nn.Module, chunk_size: int, key: str, fixed: Collection[str] = ()) -> None:
    """Refuse a step in chunks with batch norm, whose statistics would be those of a chunk instead of the batch.

    Args:
        key: of the setting `chunk_size`, for the message.
        fixed: names of the batch norms that normalise by their running statistics.

    Raises:
        InputError: the network has batch norms, and chunk_size is not 0.
    """
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)]
    if chunk_size and not set(norms) <= set(fixed):
        raise InputError(f"{key} is {chunk_size}, but this encoder has batch norm, which would see chunks. Set {key} to 0")


def _synchronised(module: nn.Module) -> nn.Module:
    """Return the module with torch's SyncBatchNorm; timm's batch norms, which do more, are timm's to convert."""
    norms = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
    if all(type(norm) is nn.BatchNorm2d for norm in norms):
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return converted
    from timm.layers import convert_sync_batchnorm

    converted = convert_sync_batchnorm(module)
    return converted


class _GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over all ranks on gloo, where torch's SyncBatchNorm refuses to run.

    timm's batch norms hold what comes after them (dropout, activation) as children: they are taken over, and run in order.
    """

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> "_GlobalBatchNorm2d":
        """Return a copy that shares the parameters and buffers of `norm`."""
        copy = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        copy.weight, copy.bias = norm.weight, norm.bias
        copy.running_mean, copy.running_var = norm.running_mean, norm.running_var
        copy.num_batches_tracked = norm.num_batches_tracked
        for name, child in norm.named_children():
            copy.add_module(name, child)
        return copy.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        x = super().forward(input) if not self.training else self._over_all_ranks(input)
        for child in self.children():
            x = child(x)
        return x

    def _over_all_ranks(self, input: Tensor) -> Tensor:
        x = at_least_float32(input)  # (batch, channels, h, w)
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
