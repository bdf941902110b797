"""LoRA: by hand, folded, on disk as others read it, and refused where it would do nothing."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hnm.encoder.adapter_files import PEFT_CONFIG, PEFT_WEIGHTS, Base, weights_digest, write_peft
from hnm.encoder.lora import (
    LoraConfig,
    adapters_of,
    add_adapters,
    choose_layers,
    config_of,
    fold_adapters,
    never_called,
)
from hnm.engine.state import load_weights
from shards.errors import InputError
from shards.seeding import seeded_torch


class Small(nn.Module):
    """A window, a 1 x 1 and a grouped convolution, and two linear layers of which one is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.window = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False)
        self.grouped = nn.Conv2d(6, 6, 3, groups=6)
        self.point = nn.Conv2d(6, 8, 1)
        self.fc = nn.Linear(8, 5)
        self.shortcut = nn.Linear(5, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled = self.point(self.grouped(self.window(images))).mean((2, 3))
        return F.linear(self.fc(pooled), self.shortcut.weight)


def small(layers: list[str] | None = None, dropout: float = 0.0) -> Small:
    """Return a network with adapters that are not zero, in float64."""
    with seeded_torch(0, "lora test"):
        network = Small().double()
        for name in add_adapters(network, LoraConfig(rank=2, alpha=3.0, dropout=dropout, layers=layers), "finetune.lora"):
            nn.init.normal_(network.get_submodule(name).lora_B.weight)
    return network


def test_an_adapter_adds_alpha_over_rank_times_b_a() -> None:
    network, x = small(["fc"]), torch.rand(4, 8, dtype=torch.float64)
    a, b = network.fc.lora_A.weight, network.fc.lora_B.weight
    expected = x @ network.fc.weight.T + network.fc.bias + 1.5 * x @ a.T @ b.T
    torch.testing.assert_close(network.fc(x), expected, atol=1e-12, rtol=0)
    assert (a.shape, b.shape) == ((2, 8), (5, 2))
    fresh = Small()
    before = fresh(torch.ones(1, 3, 16, 16))
    add_adapters(fresh, LoraConfig(), "finetune.lora")
    assert torch.equal(fresh(torch.ones(1, 3, 16, 16)), before)  # B starts at zero


def test_folding_keeps_the_output_and_takes_the_adapters_off() -> None:
    network, images = small(["window", "point", "fc"]), torch.rand(2, 3, 16, 16, dtype=torch.float64)
    names = set(Small().state_dict())
    before, plain = network(images), Small().double()
    plain.load_state_dict({name: tensor for name, tensor in network.state_dict().items() if name in names})
    assert (plain(images) - before).abs().max() > 1e-2
    assert fold_adapters(network) == 3
    assert set(network.state_dict()) == names
    torch.testing.assert_close(network(images), before, atol=1e-12, rtol=0)
    assert fold_adapters(network) == 0


def test_which_layers() -> None:
    network = Small()
    assert choose_layers(network, None, "k") == ["point", "fc", "shortcut"]
    nested = nn.Sequential(network, Small())
    assert choose_layers(nested, ["fc", "1.point"], "k") == ["0.fc", "1.point", "1.fc"]
    with pytest.raises(InputError, match=r"finetune\.lora\.layers names no layer that can have an adapter \(grouped, c\)"):
        choose_layers(network, ["grouped", "c", "fc"], "finetune.lora")
    add_adapters(network, LoraConfig(), "k")
    assert never_called(network, lambda: network(torch.rand(1, 3, 16, 16))) == ["shortcut"]
    assert config_of(network) == LoraConfig(layers=["point", "fc", "shortcut"])


def test_dropout_is_of_the_adapters_input_and_of_training_only() -> None:
    network, x = small(["fc"], dropout=0.5), torch.rand(64, 8, dtype=torch.float64)
    trained, (a, b) = network.fc(x), (network.fc.lora_A.weight, network.fc.lora_B.weight)
    kept = F.linear(x, network.fc.weight, network.fc.bias)
    assert not torch.allclose(trained, network.eval().fc(x))
    torch.testing.assert_close(network.fc(x), kept + 1.5 * x @ a.T @ b.T, atol=1e-12, rtol=0)


def test_the_folder_is_what_peft_reads(tmp_path: Path) -> None:
    network = small(["window", "fc"])
    digest = weights_digest(network)
    write_peft(tmp_path, network, Base(name="timm/small", sha256=digest))
    config, (tensors, _) = json.loads((tmp_path / PEFT_CONFIG).read_text()), load_weights(tmp_path / PEFT_WEIGHTS)
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["target_modules"]) == ("LORA", 2, 3, ["window", "fc"])
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "base_model.model.window.lora_A.weight": (2, 3, 3, 3),
        "base_model.model.window.lora_B.weight": (6, 2, 1, 1),
        "base_model.model.fc.lora_A.weight": (2, 8),
        "base_model.model.fc.lora_B.weight": (5, 2),
    }
    with torch.no_grad():
        network.fc.lora_B.weight.add_(1)
        assert weights_digest(network) == digest  # of the base alone
        network.fc.bias[0] += 1e-12
        assert weights_digest(network) != digest
    assert list(adapters_of(network)) == ["window", "fc"]
