"""Networks of others keep our contract: what they want of their input is inside, and what their file says is enough."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from hnm.encoder.batch_norm import refuse_chunks, use_global_batch_norm
from hnm.encoder.contrastive_model import fresh_model, load_model, save_model
from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.networks import build_encoder, metadata_of
from hnm.encoder.suits import unsuited_figures
from hnm.encoder.timm_models import import_timm
from hnm.encoder.weights import load_encoder
from hnm.engine.state import save_weights
from shards.errors import InputError

LITE0 = EncoderConfig(name="timm/tf_efficientnet_lite0")
TINY_VIT = EncoderConfig(name="timm/test_vit", side_px=64)  # of timm's own tests: 0.37 M parameters, at home at 160 px


def test_real_weights_give_what_timm_gives(lite0_weights: Path) -> None:
    timm = import_timm("a test")
    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    with safe_open(lite0_weights, "pt") as file:
        theirs.load_state_dict({name: file.get_tensor(name) for name in file.keys() if "classifier" not in name})  # noqa: SIM118
    data = timm.data.resolve_model_data_config(theirs)
    preprocess = timm.data.create_transform(**{**data, "crop_pct": 1.0})  # a whole patch, nothing cropped
    pictures = [torch.randint(0, 256, (3, side, side), dtype=torch.uint8) for side in (224, 224)]
    import torchvision

    expected = theirs(torch.stack([preprocess(torchvision.transforms.functional.to_pil_image(p)) for p in pictures]))
    ours = load_encoder(lite0_weights, LITE0).eval()
    torch.testing.assert_close(ours(torch.stack(pictures) / 255), expected, atol=1e-5, rtol=1e-5)
    assert ours.input.spec.mean == (0.5, 0.5, 0.5)
    imagenet = load_encoder(lite0_weights, LITE0.model_copy(update={"mean": [0.485, 0.456, 0.406]})).eval()
    assert (imagenet(pictures[0][None] / 255) - expected[:1]).abs().max() > 0.01  # it matters


def test_the_input_is_resized_as_pillow_does_it() -> None:
    timm = import_timm("a test")
    import torchvision

    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 9, 9), (27, 27), mode="bilinear")
    picture = (80 + 80 * picture).to(torch.uint8)[0]  # far from black and white, where Pillow clips in the middle
    encoder = build_encoder(LITE0.model_copy(update={"side_px": 64}))
    data = {"input_size": (3, 64, 64), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}
    expected = timm.data.create_transform(**data)(torchvision.transforms.functional.to_pil_image(picture))
    torch.testing.assert_close(encoder.input(picture[None] / 255)[0], expected, atol=2.1 / 255, rtol=0)  # it rounds to 8 bits
    assert encoder.input(torch.rand(2, 3, 64, 64)).shape == (2, 3, 64, 64)


def test_a_file_says_enough_to_build_its_encoder(tmp_path: Path) -> None:
    config = TINY_VIT.model_copy(update={"mean": [0.7, 0.5, 0.7], "projection_dim": 16})
    model = fresh_model(config, 3).eval()
    save_model(tmp_path / "a.safetensors", model, {"round": "0"})
    images = torch.rand(2, 3, 48, 48)
    back = load_model(tmp_path / "a.safetensors", EncoderConfig(name="timm/test_vit", projection_dim=16), 4).eval()
    torch.testing.assert_close(back(images), model(images), atol=0, rtol=0)  # its side and mean are in the file
    other = load_encoder(tmp_path / "a.safetensors", config.model_copy(update={"mean": [0.5, 0.5, 0.5]}))
    assert other.input.spec.mean == (0.5, 0.5, 0.5)  # the section is stronger
    with pytest.raises(InputError, match=r"a\.safetensors: holds timm/test_vit, but encoder\.name is null"):
        load_encoder(tmp_path / "a.safetensors", EncoderConfig())
    told = json.loads(metadata_of(model.encoder)["network"])
    save_weights(tmp_path / "bad.safetensors", model, {"network": json.dumps({**told, "arguments": {"checkpoint_path": "/x"}})})
    with pytest.raises(InputError, match="checkpoint_path, which no network is built with"):
        load_encoder(tmp_path / "bad.safetensors", config)
    save_weights(tmp_path / "new.safetensors", model, {"network": json.dumps({**told, "arms": 2})})
    with pytest.raises(InputError, match=r"not readable \(arms"):
        load_encoder(tmp_path / "new.safetensors", config)


def test_timms_batch_norms_keep_their_activation_on_several_ranks(lite0_weights: Path) -> None:
    alone = load_encoder(lite0_weights, LITE0.model_copy(update={"side_px": 32})).eval()
    several = use_global_batch_norm(copy.deepcopy(alone), 2).eval()
    assert several.state_dict().keys() == alone.state_dict().keys()
    kinds = {type(module) for module in several.modules() if isinstance(module, nn.BatchNorm2d)}
    assert len(kinds) == 1
    assert kinds.isdisjoint({type(module) for module in alone.modules()})
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(several(images), alone(images), atol=0, rtol=0)


def test_torchvisions_layout_is_normalised_as_imagenet(tmp_path: Path) -> None:
    plain = build_encoder(EncoderConfig(norm="batch")).eval()
    torch.save({**plain.state_dict(), "fc.weight": torch.rand(1000, 512), "fc.bias": torch.rand(1000)}, tmp_path / "tv.pth")
    encoder = load_encoder(tmp_path / "tv.pth", EncoderConfig(name="torchvision/resnet18")).eval()
    images, mean, std = torch.rand(2, 3, 64, 64), torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = plain((images - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(encoder(images), expected, atol=0, rtol=0)


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path, lite0_weights: Path) -> None:
    with pytest.raises(InputError, match=r"missing for encoder\.name=timm/test_vit.*another network"):
        load_encoder(lite0_weights, TINY_VIT)
    state = build_encoder(TINY_VIT).network.state_dict()
    one_less = {name: tensor for name, tensor in state.items() if name != "blocks.0.attn.qkv.bias"}
    for name, changed, says in (
        ("one key", one_less, r"1 tensors \(blocks\.0\.attn\.qkv\.bias\) missing"),
        ("one too many", state | {"blocks.9.attn.qkv.bias": torch.rand(3)}, r"blocks\.9.* too many"),
        ("shape", state | {"cls_token": torch.rand(1, 1, 8)}, r"cls_token \(1, 1, 8\) instead of"),
        ("nan", state | {"cls_token": state["cls_token"] * float("nan")}, "NaN or infinity"),
    ):
        torch.save(changed, tmp_path / f"{name}.pth")
        with pytest.raises(InputError, match=says):
            load_encoder(tmp_path / f"{name}.pth", TINY_VIT)
    with_head = state | {"head.weight": torch.rand(9, 64)}
    torch.save({"model": {f"module.{name}": tensor for name, tensor in with_head.items()}}, tmp_path / "head.pth")
    loaded = load_encoder(tmp_path / "head.pth", TINY_VIT)  # a head left on, in a data-parallel checkpoint
    assert all(torch.equal(loaded.network.state_dict()[name], tensor) for name, tensor in state.items())


def pooled() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def a_map() -> nn.Module:
    return nn.Conv2d(3, 5, 3)


class TwoOutputs(nn.Module):
    """Returns a tuple."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images.mean((2, 3)), images


def failing() -> nn.Module:
    raise ValueError("no such checkpoint")


def no_module() -> int:
    return 3


def test_a_users_own_function_makes_an_encoder() -> None:
    encoder = build_encoder(EncoderConfig(name=f"python/{__name__}:pooled", mean=[0.5, 0.5, 0.5]))
    images = torch.rand(2, 3, 16, 16)
    assert encoder.feature_dim == 5
    torch.testing.assert_close(encoder(images), encoder.network(images - 0.5), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (f"python/{__name__}:a_map", r"shape \(1, 5, 222, 222\), a map or tokens"),
        (f"python/{__name__}:TwoOutputs", "returns a tuple instead of a tensor"),
        (f"python/{__name__}:failing", "raised ValueError: no such checkpoint"),
        (f"python/{__name__}:no_module", r"returns a int, no torch\.nn\.Module"),
        (f"python/{__name__}:nothing", "has no function nothing"),
        ("python/no_such_package:make", "cannot import no_such_package .*PYTHONPATH"),
        ("timm/test_vitt", "knows no network 'test_vitt'. Did you mean 'test_vit"),
    ],
)
def test_what_is_no_encoder_is_refused_with_a_remedy(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        build_encoder(EncoderConfig(name=name))


def test_a_side_that_the_network_refuses_and_values_that_make_no_sense() -> None:
    with pytest.raises(InputError, match=r"refuses a picture of 65 x 65 px \(.*Set encoder\.side_px"):
        build_encoder(TINY_VIT.model_copy(update={"side_px": 65}))
    assert build_encoder(TINY_VIT)(torch.rand(1, 3, 20, 20)).shape == (1, 64)
    for wrong in ({"name": "resnet9000"}, {"std": [0.2, 0.2, 0.0]}, {"mean": [0.5]}):
        with pytest.raises(ValueError, match=r"Known: resnet18|must be above 0|at least 3"):
            EncoderConfig.model_validate(wrong)
    assert EncoderConfig.model_validate({"name": "resnet50"}).architecture == "resnet50"
    refuse_chunks(build_encoder(TINY_VIT), 8, "finetune.chunk_size")
    with pytest.raises(InputError, match=r"finetune\.chunk_size is 8, but this encoder has batch norm"):
        refuse_chunks(build_encoder(LITE0), 8, "finetune.chunk_size")


def test_a_cohort_that_does_not_suit_is_told_with_both_figures() -> None:
    assert unsuited_figures(224, [0.5], 224, [0.5, 1.0]) == []
    assert unsuited_figures(224, [], 224, [0.5]) == unsuited_figures(96, [0.5, 0.25], None, []) == []
    (resized,) = unsuited_figures(256, [0.45], 224, [0.5])  # what it sees is 0.51
    assert "256 px are resized to the 224 px" in resized
    assert "sees 0.25 microns per pixel and was trained at 0.5 (tile.mpp" in unsuited_figures(224, [0.25, 0.25], 224, [0.5])[0]
