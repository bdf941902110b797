"""Weights survive the disk, foreign checkpoints of every style give the same features, pickle bombs do not go off."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.networks import Encoder, build_encoder
from hnm.encoder.weights import load_encoder, torchvision_name
from hnm.engine.state import load_weights, save_weights
from shards.errors import InputError

BATCH = EncoderConfig(width=0.125, norm="batch", stem="small")
INSTANCE = EncoderConfig(width=0.125, stem="small")
INDEX = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def _trained(config: EncoderConfig) -> Encoder:
    """An encoder none of whose tensors has its initial value."""
    torch.manual_seed(3)
    encoder = build_encoder(config)
    for tensor in encoder.state_dict().values():
        if tensor.is_floating_point():
            tensor += 0.1 * torch.rand_like(tensor)
    return encoder


def _simclr_style(state: dict[str, Tensor]) -> dict[str, Tensor]:
    head = {"l1.weight": torch.rand(64, 64), "l1.bias": torch.rand(64), "projection.0.weight": torch.rand(2, 2)}
    renamed = {}
    for name, tensor in state.items():
        first, rest = name.split(".", 1)
        renamed[f"features.{INDEX[first]}.{rest}"] = tensor
    return renamed | head


def _with_classifier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"fc.weight": torch.rand(10, 64), "fc.bias": torch.rand(10)}


def _prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def _assert_same_features(actual: Encoder, expected: Encoder) -> None:
    images = torch.rand(2, 3, 24, 24)
    torch.testing.assert_close(actual.eval()(images), expected.eval()(images), rtol=0, atol=0)


def test_weights_and_metadata_survive_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    encoder = _trained(BATCH)
    save_weights(path, encoder, {"round": "3", "note": "Größe"})
    state, metadata = load_weights(path)
    assert metadata == {"round": "3", "note": "Größe"}
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(state[name], tensor)
    assert torch.equal(safetensors.torch.load_file(path)["conv1.weight"], encoder.conv1.weight)
    _assert_same_features(load_encoder(path, BATCH), encoder)


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    metadata = {f"key{i}": "x" * i for i in range(12)}  # safetensors alone orders these at random
    state = {"b": torch.arange(6.0).reshape(2, 3).T, "a": torch.ones(3)[:2], "half": torch.ones(2).half()}
    save_weights(tmp_path / "1", state, metadata)
    save_weights(tmp_path / "2", dict(reversed(state.items())), dict(reversed(metadata.items())))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert torch.equal(load_weights(tmp_path / "1")[0]["b"], state["b"])


def test_an_unfinished_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        save_weights(tmp_path / "x.safetensors", {"a": 1}, {})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("config", [BATCH, INSTANCE])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "style",
    [
        _with_classifier,
        _simclr_style,
        lambda state: _prefixed("module.encoder.", _with_classifier(state)),
        lambda state: _prefixed("model.backbone.", _simclr_style(state)),
    ],
)
def test_foreign_styles_give_the_same_features(tmp_path: Path, style: Any, suffix: str, config: EncoderConfig) -> None:
    encoder = _trained(config)
    path = tmp_path / f"foreign{suffix}"
    state = style(encoder.state_dict())
    if suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    _assert_same_features(load_encoder(path, config), encoder)


@pytest.mark.parametrize("keys", [("state_dict",), ("model",), ("encoder",), ("model", "state_dict")])
def test_nested_state_dicts_are_found(tmp_path: Path, keys: tuple[str, ...]) -> None:
    encoder = _trained(BATCH)
    content: dict[str, Any] = dict(_prefixed("module.", encoder.state_dict()))
    for key in keys:
        content = {"epoch": 7, "arch": "resnet18", "best": np.float64(0.5), "optimizer": {"state": {}}, key: content}
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    _assert_same_features(load_encoder(tmp_path / "checkpoint.pth.tar", BATCH), encoder)


def test_old_files_without_batch_counters_load(tmp_path: Path) -> None:
    encoder = _trained(BATCH)
    state = {name: t for name, t in encoder.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    _assert_same_features(load_encoder(tmp_path / "old.pth", BATCH), encoder)


def test_batch_norm_tensors_are_counted_and_ignored_under_instance_norm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = _trained(BATCH)
    torch.save(_with_classifier(encoder.state_dict()), tmp_path / "bn.pth")
    with caplog.at_level(logging.INFO):
        loaded = load_encoder(tmp_path / "bn.pth", INSTANCE)
    assert torch.equal(loaded.conv1.weight, encoder.conv1.weight)
    assert "20 encoder tensors taken, 102 others ignored" in caplog.text
    assert "100 batch-norm tensors ignored" in caplog.text


def test_names() -> None:
    assert torchvision_name("module.model.encoder.layer1.0.bn1.weight") == "layer1.0.bn1.weight"
    assert torchvision_name("features.4.0.conv1.weight") == "layer1.0.conv1.weight"
    assert torchvision_name("features.0.weight") == "conv1.weight"
    assert torchvision_name("features.denseblock1.x") == "features.denseblock1.x"
    assert torchvision_name("momentum_encoder.conv1.weight") == "momentum_encoder.conv1.weight"


def test_files_that_do_not_fit_name_keys_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    state = _trained(BATCH).state_dict()
    torch.save({name: t for name, t in state.items() if not name.startswith("layer4.")}, path)
    with pytest.raises(InputError, match=r"a\.pth: 25 tensors \(layer4\.0\.conv1\.weight, .*missing for .*resnet18"):
        load_encoder(path, BATCH)
    torch.save(_trained(INSTANCE).state_dict(), path)
    with pytest.raises(InputError, match=r"bn1\.weight.*set encoder\.norm=instance"):
        load_encoder(path, BATCH)
    torch.save(state, path)
    with pytest.raises(InputError, match=r"conv1\.weight \(8, 3, 3, 3\) instead of \(8, 3, 7, 7\)"):
        load_encoder(path, EncoderConfig(width=0.125, norm="batch"))
    torch.save(state | {"layer1.2.conv1.weight": torch.rand(8, 8, 3, 3)}, path)  # a ResNet-34 in a ResNet-18
    with pytest.raises(InputError, match=r"layer1\.2\.conv1\.weight.*too many.*encoder\.architecture"):
        load_encoder(path, BATCH)
    torch.save(state | {"module.conv1.weight": state["conv1.weight"]}, path)
    with pytest.raises(InputError, match=r"more than one tensor is 'conv1\.weight'"):
        load_encoder(path, BATCH)
    torch.save(state | {"conv1.weight": state["conv1.weight"] * float("nan")}, path)
    with pytest.raises(InputError, match=r"NaN or infinity in 1 tensors \(conv1\.weight\)"):
        load_encoder(path, BATCH)
    endless: dict[str, Any] = {}
    endless["model"] = endless
    for content in ({"epoch": 3}, [1, 2], endless):
        torch.save(content, path)
        with pytest.raises(InputError, match="no state dict found"):
            load_encoder(path, BATCH)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="refused"):
        load_encoder(path, BATCH)


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_a_pickle_bomb_is_refused_and_not_executed(tmp_path: Path) -> None:
    torch.save({"state_dict": _trained(BATCH).state_dict(), "extra": _Bomb(tmp_path / "boom")}, tmp_path / "bomb.pth")
    with pytest.raises(InputError, match=r"bomb\.pth: refused.*safetensors"):
        load_encoder(tmp_path / "bomb.pth", BATCH)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth", "absent.pth", "absent.safetensors"])
def test_broken_and_absent_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "cut.safetensors":
        save_weights(path, _trained(INSTANCE), {})
        path.write_bytes(path.read_bytes()[:-100])
    elif name == "cut.pth":
        torch.save(_trained(INSTANCE).state_dict(), path)
        path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=name):
        load_encoder(path, INSTANCE)
