"""A whole way with a network of others, from real weights: train, evaluate, export, predict, all with its own input."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from hnm.encoder.registry import REGISTRY
from hnm.engine.state import load_weights
from hnm.model.model import open_exported
from hnm.report.record import RunRecord
from launch.verbs import train as verbs
from launch.verbs.encoder import fetch, print_list, show
from launch.verbs.predict import PredictRequest, export, open_record, predict
from shards.errors import InputError
from tests.tiny import TINY

OVERRIDES = [*TINY, "encoder.name=timm/tf_efficientnet_lite0", "encoder.side_px=32", "rounds.num_rounds=1"]


@pytest.fixture(scope="module")
def record(tiny_cohort: Path, lite0_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    run = tmp_path_factory.mktemp("lite0-run") / "run"
    assert verbs.train(tiny_cohort, run, lite0_weights, None, "hnm", OVERRIDES, ranks=1) == 0
    assert verbs.evaluate(run, None, ranks=1, with_report=False) == 0
    return open_record(run, None)


@pytest.mark.slow
def test_a_run_tells_what_its_encoder_sees(record: RunRecord, lite0_weights: Path) -> None:
    log = (record.run / "log" / "rank-000.log").read_text()
    seen = "1280 features; patches resized to 32 px (bicubic), mean 0.5, 0.5, 0.5, standard deviation 0.5, 0.5, 0.5"
    assert f"encoder timm/tf_efficientnet_lite0: 3.4 M parameters, {seen}" in log
    assert "warning: patches of 16 px are resized to the 32 px that the encoder takes" in log
    start, metadata = load_weights(record.run / "encoder-start.safetensors")
    assert torch.equal(start["encoder.network.conv_stem.weight"], load_weights(lite0_weights)[0]["conv_stem.weight"])
    tuned, metadata = load_weights(record.run / "round-000" / "encoder.safetensors")
    assert not torch.equal(tuned["encoder.network.conv_stem.weight"], start["encoder.network.conv_stem.weight"])
    assert json.loads(metadata["network"])["input"]["mean"] == [0.5, 0.5, 0.5]


@pytest.mark.slow
def test_an_exported_model_predicts_and_tells_its_input_and_licence(
    record: RunRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(record.run, tmp_path / "model", None) == 0
    note = "timm/tf_efficientnet_lite0 is under apache-2.0: its weights may be passed on under these terms."
    assert f"licence: {note}" in capsys.readouterr().out
    assert note in (tmp_path / "model" / "MODEL.md").read_text()
    card, about = (tmp_path / "model" / "MODEL.md").read_text(), json.loads((tmp_path / "model" / "model.json").read_text())
    assert "mean 0.5, 0.5, 0.5" in card
    assert "* Patches of 16 px are resized to the 32 px that the encoder takes." in card
    assert about["encoder"]["input"] == {"side_px": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    images: Any = torch.rand(2, 3, 16, 16)
    assert open_exported(tmp_path / "model", torch.device("cpu")).encoder(images).shape == (2, 1280)
    slide = record.study.cohort.slides.to_pylist()[1]  # of the test split
    request = PredictRequest(tmp_path / "model", [Path(slide["path"])], tmp_path / "out", device="cpu")
    assert predict(request) == 0


def test_the_registry_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_list() == 0
    for name, row in REGISTRY.items():
        assert re.search(rf"^{name} +{row.feature_dim} .* {row.licence} ", told := capsys.readouterr().out, re.MULTILINE), told
        assert show(name) == 0
        assert f"hub                {row.repository}@" in (told := capsys.readouterr().out)
        assert row.licence in told
        assert print_list() == 0
    with pytest.raises(InputError, match=r"uni3: no network of that name\. Did you mean 'uni'"):
        show("uni3")
    with pytest.raises(InputError, match="its weights are on no hub"):
        fetch("torchvision/resnet18")


def test_training_needs_weights_that_are_here(tiny_cohort: Path, tmp_path: Path) -> None:
    for given, overrides, says in (
        (None, ["encoder.name=uni"], "Add --encoder uni, or a file"),
        ("uni", [], "its weights are not on this machine.*hnm encoder fetch uni"),
        (tmp_path / "none.pth", [], "there is no such file"),
    ):
        with pytest.raises(InputError, match=says):
            verbs.train(tiny_cohort, tmp_path / "run", given, None, "hnm", [*TINY, *overrides], ranks=1)
    assert not (tmp_path / "run").exists()
