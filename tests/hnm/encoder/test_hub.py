"""Weights from a hub: fetched where there is a network, found where there is none, and refused in words that help."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.hub import Place, cached_weights, fetch, refusal
from hnm.encoder.networks import build_encoder
from hnm.encoder.start import find_start, require_start
from hnm.encoder.timm_models import import_timm
from shards.errors import InputError
from tests.hub import COMMIT, TOKEN, hub_of

NAME = "hf/lab/tiny-vit"
GATED = Place("lab/gated-vit")
CONFIG = {
    "architecture": "test_vit",
    "model_args": {"img_size": 32, "init_values": 1e-5},
    "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.7, 0.5, 0.7], "std": [0.2, 0.3, 0.2], "license": "cc-by-nc-nd-4.0"},
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of repositories that huggingface-hub finds: lab/tiny-vit in timm's layout, and the same gated."""
    network = import_timm("a test").create_model("test_vit", num_classes=5, img_size=32, init_values=1e-5)
    for repository in ("tiny-vit", "gated-vit"):
        folder = tmp_path / "hub" / "lab" / repository
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        safetensors.torch.save_file(network.state_dict(), folder / "model.safetensors")
    with hub_of(tmp_path / "hub", tmp_path / "cache", monkeypatch):
        yield tmp_path / "hub"


def test_a_repository_is_fetched_once_and_found_without_a_network(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"not on this machine.*hnm encoder fetch hf/lab/tiny-vit"):
        find_start(NAME, EncoderConfig())
    with pytest.raises(InputError, match=r"config\.json is neither in a folder of that name nor in the hub's cache"):
        build_encoder(EncoderConfig(name=NAME))
    path = fetch(Place("lab/tiny-vit"), NAME)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as on a compute node
    assert cached_weights(NAME) == path
    start = find_start(NAME, EncoderConfig(projection_dim=16))
    assert start.origin()["source"] == f"models--lab--tiny-vit/snapshots/{COMMIT}/model.safetensors"
    encoder = start.load(seed=0).encoder.eval()
    theirs = import_timm("a test").create_model("test_vit", num_classes=0, img_size=32, init_values=1e-5).eval()
    head = ("head.weight", "head.bias")
    theirs.load_state_dict({k: v for k, v in safetensors.torch.load_file(path).items() if k not in head})
    images = torch.rand(2, 3, 32, 32)
    normal = (images - torch.tensor([0.7, 0.5, 0.7])[:, None, None]) / torch.tensor([0.2, 0.3, 0.2])[:, None, None]
    torch.testing.assert_close(encoder(images), theirs(normal), atol=1e-5, rtol=0)
    assert encoder.spec.may_be_passed_on is False
    assert "nor what is made of them may be passed on" in encoder.spec.licence_note()
    local = find_start(f"hf/{hub}/lab/tiny-vit", EncoderConfig(projection_dim=16))  # a folder, as downloaded by hand
    torch.testing.assert_close(local.load(0).encoder.eval()(images), encoder(images), atol=0, rtol=0)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        fetch(Place("lab/other"), "hf/lab/other")


def test_what_keeps_a_hub_from_giving_weights_is_said_with_the_remedy(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is gated, and there is no token" in (refusal(GATED, "hf/lab/gated-vit") or "")
    monkeypatch.setenv("HF_TOKEN", "hf_not_let_in")
    assert "the token's account has not been let in" in (refusal(GATED, "hf/lab/gated-vit") or "")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert refusal(GATED, "hf/lab/gated-vit") is None
    assert fetch(GATED, "hf/lab/gated-vit").name == "model.safetensors"
    assert "the hub has no" in (refusal(Place("lab/none"), "hf/lab/none") or "")
    (hub / "lab" / "empty").mkdir()
    with pytest.raises(InputError, match=r"has neither model\.safetensors nor pytorch_model\.bin"):
        fetch(Place("lab/empty"), "hf/lab/empty")
    (hub / "lab" / "tiny-vit" / "config.json").write_text(json.dumps({"architectures": ["ViTModel"]}))
    with pytest.raises(InputError, match=r"is neither of timm's layout .* nor a ViT of transformers'"):
        build_encoder(EncoderConfig(name=f"hf/{hub}/lab/tiny-vit"))
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    assert "the hub cannot be reached" in (refusal(Place("lab/tiny-vit"), NAME) or "")


def test_names_and_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file, and no network of that name\. Did you mean 'uni2-h'"):
        find_start("uni2h", EncoderConfig())
    with pytest.raises(InputError, match=r"encoder\.name is virchow"):
        find_start("uni", EncoderConfig(name="virchow"))
    assert find_start("python/torch.nn:Flatten", EncoderConfig()).path is None
    (tmp_path / "uni.pth").write_bytes(b"")
    assert find_start(str(tmp_path / "uni.pth"), EncoderConfig(name="uni")).path == tmp_path / "uni.pth"
    require_start(EncoderConfig(name="timm/test_vit"))
    with pytest.raises(InputError, match="Add --encoder uni, or a file"):
        require_start(EncoderConfig(name="uni"))
