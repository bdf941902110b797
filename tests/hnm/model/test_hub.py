"""An encoder as a folder that timm loads: it gives the same features, and what timm does not have is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.networks import build_encoder
from hnm.encoder.timm_models import import_timm
from hnm.model.hub import write_hub
from hnm.model.model import open_exported
from hnm.run.tracking_run import MODEL_FOLDER
from shards.errors import InputError


@pytest.mark.parametrize(
    "section", [{"name": "timm/test_vit", "side_px": 64}, {"architecture": "resnet18", "norm": "batch"}], ids=["vit", "resnet"]
)
def test_timm_loads_the_folder_and_gives_the_same_features(
    section: dict[str, Any], evaluated_run: Path, tmp_path: Path
) -> None:
    timm, images = import_timm("a test"), torch.rand(2, 3, 64, 64)
    encoder = build_encoder(EncoderConfig(**section)).eval()
    model = replace(open_exported(evaluated_run / MODEL_FOLDER, torch.device("cpu")), encoder=encoder)
    write_hub(model, evaluated_run / MODEL_FOLDER, tmp_path / "hub")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(encoder.input(images)), encoder(images), rtol=1e-4, atol=1e-5)
    assert tuple(theirs.pretrained_cfg["mean"]) == encoder.input.spec.mean
    assert (tmp_path / "hub" / "README.md").read_text().startswith("---\nlibrary_name: timm\n")


def test_a_folder_of_something_else_is_left_alone(evaluated_run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    encoder = build_encoder(EncoderConfig(norm="batch"))
    model = replace(open_exported(evaluated_run / MODEL_FOLDER, torch.device("cpu")), encoder=encoder)
    with pytest.raises(InputError, match="exists and is no such folder"):
        write_hub(model, evaluated_run / MODEL_FOLDER, tmp_path)
