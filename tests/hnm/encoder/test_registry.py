"""Every row of the registry builds, is as large as it says, and small networks of its arguments give what timm gives."""

import re
from dataclasses import asdict

import pytest
import torch

import hnm.encoder.registry
from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.foreign import ForeignEncoder
from hnm.encoder.networks import build_encoder
from hnm.encoder.registry import REGISTRY, spec_of_row
from hnm.encoder.timm_models import import_timm

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 2}


@pytest.mark.parametrize(
    "name", ["uni", "uni2-h", "virchow", "virchow2", "prov-gigapath", "h-optimus-1", "kaiko-vitl14", "lunit-vits8"]
)
def test_small_networks_of_a_row_give_what_timm_gives(name: str) -> None:
    timm = import_timm("a test")
    import torchvision

    row, spec = REGISTRY[name], spec_of_row(name)
    torch.manual_seed(3)
    ours = ForeignEncoder(spec.model_copy(update={"arguments": {**spec.arguments, **SMALL}})).eval()
    arguments = {**row.arguments, **SMALL}
    if "mlp_layer" in arguments:
        arguments["mlp_layer"] = timm.layers.SwiGLUPacked
    theirs = timm.create_model(row.network, num_classes=0, **arguments).eval()
    for tensor in theirs.state_dict().values():
        tensor.copy_(torch.randn_like(tensor) / 4)  # unlike fresh weights, it matters what is added where
    ours.network.load_state_dict(theirs.state_dict())
    data = {"input_size": (3, 224, 224), "mean": row.input.mean, "std": row.input.std, "crop_pct": 1.0}
    preprocess = timm.data.create_transform(**data, interpolation=row.input.interpolation)
    pictures = [torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8) for _ in range(2)]
    with torch.no_grad():
        out = theirs(torch.stack([preprocess(torchvision.transforms.functional.to_pil_image(p)) for p in pictures]))
        if name.startswith("virchow"):  # as the publisher says: class token, and mean of what follows the register tokens
            out = torch.cat([out[:, 0], out[:, 5 if name == "virchow2" else 1 :].mean(1)], dim=1)
        torch.testing.assert_close(ours(torch.stack(pictures) / 255), out, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_rows_are_as_large_as_they_say() -> None:
    built: dict[str, tuple[int, float]] = {}
    for name, row in ((name, row) for name, row in REGISTRY.items() if row.network):
        same = f"{row.network} {row.arguments} {row.pooling}"
        if same not in built:
            with torch.device("meta"):  # the whole network, without its memory
                encoder = build_encoder(EncoderConfig(name=name))
            built[same] = (encoder.feature_dim, round(sum(p.numel() for p in encoder.parameters()) / 1e6, 1))
        assert built[same] == (row.feature_dim, row.millions), name


def test_every_row_names_its_sources_and_its_licence() -> None:
    told = set(re.findall(r"^    ([A-Z])   ", hnm.encoder.registry.__doc__ or "", re.MULTILINE))
    for name, row in REGISTRY.items():
        assert set(row.source.split(", ")) <= told, name
        assert row.licence
        assert row.may_be_passed_on is not True or row.licence in ("Apache-2.0", "MIT")
        assert bool(row.network) == (row.millions is not None)
        assert row.revision is None or re.fullmatch(r"[0-9a-f]{40}", row.revision)
        assert spec_of_row(name).input.side_px == 224
        assert asdict(row)["mpp"]
