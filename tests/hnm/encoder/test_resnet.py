"""The encoder's shapes and names, its norm options, and batch norm over ranks = batch norm over the whole batch."""

import time
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pydantic import ValidationError
from torch import nn

from hnm.encoder.batch_norm import use_global_batch_norm
from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.networks import build_encoder
from hnm.encoder.resnet import ProjectionHead
from shards.errors import InputError


def test_the_parameters_carry_torchvisions_names_and_shapes() -> None:
    shapes = {name: tuple(p.shape) for name, p in build_encoder(EncoderConfig(norm="batch")).state_dict().items()}
    assert len(shapes) == 120  # torchvision's resnet18 has 122 with fc.weight and fc.bias
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["bn1.running_var"] == (64,)
    assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert shapes["layer4.1.bn2.bias"] == (512,)


@pytest.mark.parametrize(
    ("architecture", "torchvisions", "classifier"),
    [("resnet18", 11_689_512, 513_000), ("resnet50", 25_557_032, 2_049_000)],
)
def test_the_depths_have_torchvisions_numbers_of_parameters(
    architecture: Literal["resnet18", "resnet50"], torchvisions: int, classifier: int
) -> None:
    encoder = build_encoder(EncoderConfig(architecture=architecture, norm="batch"))
    assert sum(p.numel() for p in encoder.parameters()) == torchvisions - classifier


def test_instance_norm_has_neither_parameters_nor_statistics() -> None:
    names = build_encoder(EncoderConfig()).state_dict().keys()
    assert len(names) == 20
    assert not any("bn" in name for name in names)


@pytest.mark.parametrize(
    ("config", "side", "feature_dim"),
    [
        (EncoderConfig(width=0.25), 64, 128),
        (EncoderConfig(width=0.25, stem="small"), 28, 128),
        (EncoderConfig(width=0.125, architecture="resnet50", norm="batch"), 40, 256),
    ],
)
def test_the_features_have_the_announced_length(config: EncoderConfig, side: int, feature_dim: int) -> None:
    encoder = build_encoder(config)
    assert encoder.feature_dim == feature_dim
    assert encoder(torch.rand(2, 3, side, side)).shape == (2, feature_dim)


def test_instance_norm_makes_a_patch_independent_of_its_batch() -> None:
    encoder = build_encoder(EncoderConfig(width=0.125))
    images = torch.rand(4, 3, 64, 64)
    torch.testing.assert_close(encoder(images)[:1], encoder(images[:1]), rtol=1e-4, atol=1e-5)


def test_patches_too_small_for_instance_norm_are_refused_with_the_remedy() -> None:
    with pytest.raises(InputError, match=r"28 x 28 px.*encoder\.stem=small, tile larger.*encoder\.norm=batch"):
        build_encoder(EncoderConfig(width=0.125))(torch.rand(2, 3, 28, 28))
    with pytest.raises(InputError, match=r"more than 8 px\)\. Remedy: tile larger"):
        build_encoder(EncoderConfig(width=0.125, stem="small"))(torch.rand(2, 3, 8, 8))
    build_encoder(EncoderConfig(width=0.125, norm="batch"))(torch.rand(2, 3, 28, 28))


def test_an_unknown_key_or_a_bad_value_is_refused() -> None:
    with pytest.raises(ValidationError, match="widht"):
        EncoderConfig.model_validate({"widht": 1})
    with pytest.raises(ValidationError, match="width"):
        EncoderConfig(width=0)


def test_projections_have_unit_length_in_float32_under_autocast() -> None:
    head = ProjectionHead(32, 8)
    assert [tuple(p.shape) for p in head.parameters()] == [(32, 32), (32,), (8, 32), (8,)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        projected = head(torch.randn(5, 32))
    assert projected.dtype == torch.float32
    torch.testing.assert_close(projected.norm(dim=1), torch.ones(5))


def test_one_rank_and_instance_norm_are_left_alone() -> None:
    alone = build_encoder(EncoderConfig(width=0.125, norm="batch"))
    assert type(use_global_batch_norm(alone, 1).bn1) is nn.BatchNorm2d
    instance = use_global_batch_norm(build_encoder(EncoderConfig(width=0.125)), 2)
    assert type(instance.bn1) is nn.InstanceNorm2d


OURS = EncoderConfig(width=0.125, norm="batch", stem="small")
OTHER = EncoderConfig(name=f"python/{__name__}:with_activations", side_px=16)


class NormAndActivation(nn.BatchNorm2d):
    """A batch norm as timm's: with what comes after it as a child."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.SiLU()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        activated: torch.Tensor = self.act(super().forward(input))
        return activated


def with_activations() -> nn.Module:
    first, second = nn.Conv2d(3, 16, 3, 2, bias=False), nn.Conv2d(16, 64, 3, 2, bias=False)
    return nn.Sequential(first, NormAndActivation(16), second, NormAndActivation(64), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _network(config: EncoderConfig) -> nn.Module:
    torch.manual_seed(0)
    network = build_encoder(config).double()
    for parameter in network.parameters():  # norm weights away from 1 and 0, so that a mistake in them shows
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = 3 + torch.rand(7, 3, 16, 16, generator=generator, dtype=torch.float64)
    return images, torch.randn(7, 64, generator=generator, dtype=torch.float64)


def _train_step(network: nn.Module, images: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two training passes (for the running statistics), then one in evaluation mode."""
    for _ in range(2):
        images = images.detach().requires_grad_()
        network.zero_grad()
        output = network(images)
        (output * target).square().sum().backward()
    assert images.grad is not None
    result = {"output": output.detach(), "input_grad": images.grad, "eval": network.eval()(images).detach()}
    result |= {f"grad/{name}": p.grad for name, p in network.named_parameters() if p.grad is not None}
    return result | {f"buffer/{name}": b for name, b in network.named_buffers()}


def _rank_main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    images, target = _batch()
    rows = slice(0, 3) if rank == 0 else slice(3, 7)  # unequal on purpose: counts must be weighed
    for name, config in (("ours", OURS), ("other", OTHER)):
        network = use_global_batch_norm(_network(config), 2)
        torch.save(_train_step(network, images[rows], target[rows]), f"{folder}/{name}{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_batch_norm_on_two_ranks_equals_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    context = mp.spawn(_rank_main, args=(str(tmp_path),), nprocs=2, join=False)
    assert context is not None
    deadline = time.monotonic() + 180  # a busy machine imports torch and timm for a minute
    while not context.join(timeout=1):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail("the ranks hang")
    _assert_equal_to_one_process("ours", OURS, tmp_path)
    _assert_equal_to_one_process("other", OTHER, tmp_path)


def _assert_equal_to_one_process(of: str, config: EncoderConfig, folder: Path) -> None:
    ranks = [torch.load(folder / f"{of}{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, value in _train_step(_network(config), *_batch()).items():
        if name in ("output", "input_grad", "eval"):
            actual = torch.cat([rank[name] for rank in ranks])
        elif name.startswith("grad/"):
            actual = ranks[0][name] + ranks[1][name]  # DDP would average; the loss here is a sum
        else:
            torch.testing.assert_close(ranks[1][name], value, rtol=1e-6, atol=1e-6, msg=name)
            actual = ranks[0][name]
        torch.testing.assert_close(actual, value, rtol=1e-6, atol=1e-6, msg=name)
