"""A whole way with LoRA on a base that may not be passed on: run and export hold adapters alone, and say whose they are."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hnm.encoder.adapter_files import PEFT_CONFIG, PEFT_WEIGHTS
from hnm.encoder.contrastive_model import fresh_model, save_model
from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.foreign import ForeignEncoder
from hnm.encoder.timm_models import import_timm
from hnm.encoder.weights import load_encoder
from hnm.engine.state import load_metadata, load_weights
from hnm.model.export import export
from hnm.model.hub import write_hub
from hnm.model.model import open_exported, open_recorded
from hnm.model.onnx import export_onnx
from hnm.report.record import RunRecord
from launch.verbs import train as verbs
from launch.verbs.predict import open_record
from shards.errors import InputError
from tests.tiny import TINY

VIT = EncoderConfig(name="timm/test_vit", side_px=32)
pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
LORA = ["train=lora", "lora.rank=2", "lora.layers=[attn.qkv, mlp.fc1]", "optimizer=adamw", "lr=3e-3", "layer_decay=0.9"]
SETTINGS = [*TINY, *(f"finetune.{setting}" for setting in LORA), "finetune.rate_warmup_steps=2", "encoder.name=timm/test_vit"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose licence lets nobody have them."""
    path, model = tmp_path_factory.mktemp("base") / "vit.safetensors", fresh_model(VIT, 7)
    assert isinstance(model.encoder, ForeignEncoder)
    model.encoder.spec = model.encoder.spec.model_copy(
        update={"may_be_passed_on": False, "licence": "CC-BY-NC-ND-4.0"}
    )
    save_model(path, model, {})
    return path


@pytest.fixture(scope="module")
def record(tiny_cohort: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    run = tmp_path_factory.mktemp("adapted") / "run"
    assert verbs.train(tiny_cohort, run, base, None, "hnm", SETTINGS, ranks=1) == 0
    return open_record(run, None)


def test_a_run_on_a_gated_base_holds_adapters_and_heads_alone(record: RunRecord, base: Path) -> None:
    for name in ("encoder-start", "round-000/encoder", "round-001/encoder"):
        path = record.run / f"{name}.safetensors"
        assert all("lora_" in key or key.startswith("projection.") for key in load_weights(path)[0])
        assert str(base) in load_metadata(path)["base"]
    first, second = (load_weights(record.run / f"round-00{n}/encoder.safetensors")[0] for n in (0, 1))
    moved = [key for key in first if "lora_B" in key and not torch.equal(first[key], second[key])]
    assert len(moved) == len(first) / 2 - 2  # each round goes on with the adapters of the one before
    assert "adapters of rank 2 on 12 layers" in (record.run / "log" / "rank-000.log").read_text()


def test_its_export_needs_the_base_and_merging_folds_it(
    record: RunRecord, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = replace(record, chosen=2)  # round 0 embeds with the start, which has no adapters
    images: Any = torch.rand(2, 3, 16, 16)
    expected = open_recorded(last, CPU).encoder(images)
    assert (expected - load_encoder(base, VIT).eval()(images)).abs().max() > 1e-3
    export(last, tmp_path / "adapters")
    assert {PEFT_CONFIG, PEFT_WEIGHTS} <= {path.name for path in (tmp_path / "adapters").iterdir()}
    with pytest.raises(InputError, match=r"encoder\.safetensors: holds adapters alone, of timm/test_vit .* there as .*base"):
        open_exported(tmp_path / "adapters", CPU)
    save_model(tmp_path / "adapters" / "base.safetensors", fresh_model(VIT, 8), {})
    with pytest.raises(InputError, match=r"base\.safetensors: not the weights that the adapters of"):
        open_exported(tmp_path / "adapters", CPU)
    (tmp_path / "adapters" / "base.safetensors").unlink()
    (tmp_path / "adapters" / "base.safetensors").symlink_to(base)
    assert torch.equal(open_exported(tmp_path / "adapters", CPU).encoder(images), expected)
    export(last, tmp_path / "merged", merge=True)
    forbids = "timm/test_vit is under CC-BY-NC-ND-4.0: neither its weights nor what is made of them may be passed on."
    assert all(forbids in (tmp_path / folder / "MODEL.md").read_text() for folder in ("adapters", "merged"))
    assert not (tmp_path / "merged" / PEFT_CONFIG).exists()
    merged = open_exported(tmp_path / "merged", CPU).encoder
    assert not any("lora" in name for name in merged.state_dict())
    torch.testing.assert_close(merged(images), expected, atol=1e-5, rtol=0)
    (of_model,) = re.findall(r"```python\n(.*?)```", (tmp_path / "merged" / "MODEL.md").read_text(), re.DOTALL)
    scope: dict[str, Any] = {}
    with monkeypatch.context() as context:
        context.chdir(tmp_path / "merged")
        exec(of_model, scope)
    assert torch.equal(scope["encoder"](images), merged(images))
    model = open_exported(tmp_path / "merged", CPU)
    assert "images (n, 3, 32, 32)" in export_onnx(model, tmp_path / "merged")[0]  # it has compared the features itself
    write_hub(model, tmp_path / "merged", tmp_path / "hub")
    theirs = import_timm("a test").create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True, num_classes=0).eval()
    torch.testing.assert_close(theirs(merged.input(images)), merged(images), atol=1e-6, rtol=0)
    with pytest.raises(InputError, match=r"has no adapters to fold"):
        export(replace(record, chosen=0), tmp_path / "start", merge=True)


def test_pretraining_goes_on_from_an_encoder(tiny_cohort: Path, base: Path, tmp_path: Path) -> None:
    settings = [*TINY, "encoder.name=timm/test_vit", "encoder.side_px=32", "pretrain.train=lora", "pretrain.lora.rank=2"]
    assert verbs.pretrain(tiny_cohort, tmp_path / "out", None, settings, 1, base) == 0
    made = load_encoder(tmp_path / "out" / "encoder.safetensors", VIT).state_dict()
    before = load_encoder(base, VIT).state_dict()
    assert all(torch.equal(made[name], tensor) for name, tensor in before.items())
    assert any(made[name].abs().max() > 0 for name in made if "lora_B" in name)
    with pytest.raises(InputError, match=r"pretrain\.train is lora, but there is no encoder to freeze a part of"):
        verbs.pretrain(tiny_cohort, tmp_path / "other", None, settings, 1)
