"""The lines of MODEL.md that load an encoder without this package: they are run, and give the encoder's own features."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.networks import build_encoder
from hnm.engine.state import save_weights
from hnm.model.model import open_exported
from hnm.model.snippet import loading_code
from hnm.run.tracking_run import MODEL_FOLDER

IMAGES = torch.rand((2, 3, 48, 48), generator=torch.Generator().manual_seed(0))


def _run(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    monkeypatch.chdir(folder)
    found: dict[str, Any] = {}
    exec(compile(code, "MODEL.md", "exec"), found)
    encoder: torch.nn.Module = found["encoder"]
    return encoder


def test_the_lines_of_an_exported_card_load_its_encoder(evaluated_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = evaluated_run / MODEL_FOLDER
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "MODEL.md").read_text(), re.DOTALL)
    assert "hnm" not in code
    ours = open_exported(folder, torch.device("cpu")).encoder
    theirs = _run(code, folder, monkeypatch)
    torch.testing.assert_close(theirs(IMAGES), ours(IMAGES), rtol=1e-5, atol=1e-6)
    assert (
        sum(parameter.numel() for parameter in theirs.parameters() if parameter.requires_grad) > 1000
    )  # to go on with


@pytest.mark.parametrize(
    "section",
    [
        {
            "architecture": "resnet50",
            "norm": "batch",
            "width": 0.125,
            "side_px": 64,
            "mean": [0.5] * 3,
            "std": [0.2] * 3,
        },
        {"architecture": "resnet18", "norm": "instance", "width": 0.125},
        {"name": "timm/test_vit", "side_px": 64},
    ],
)
def test_every_kind_of_encoder_has_such_lines(
    section: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    encoder = build_encoder(EncoderConfig(**section)).eval()
    for name, buffer in encoder.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    save_weights(tmp_path / "encoder.safetensors", state, {})
    with torch.no_grad():
        expected = encoder(IMAGES)
        found = _run(loading_code(encoder), tmp_path, monkeypatch)(IMAGES)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
