"""ONNX of encoder and aggregators: what onnxruntime computes is what torch does, for any number of patches."""

from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime
import pytest
import torch

from hnm.aggregator.aggregators import Kind, build_aggregator
from hnm.aggregator.bags import Bags, file_of_rows, write_index
from hnm.aggregator.score import predict_bag, score_patches, slide_scores
from hnm.model import onnx
from hnm.model.model import open_exported
from shards.errors import InputError
from tests.command_line import assert_refused, hnm


def test_an_exported_model_as_onnx_gives_what_torch_gives(evaluated_run: Path, tmp_path: Path) -> None:
    result = hnm("export", evaluated_run, tmp_path / "model", "--onnx")
    assert result.exit_code == 0, result.output
    assert "encoder.onnx: images (n, 3, 16, 16) RGB in [0, 1]; off by" in result.output
    model = open_exported(tmp_path / "model", torch.device("cpu"))
    images = torch.rand(5, 3, 16, 16)
    session = onnxruntime.InferenceSession(tmp_path / "model" / onnx.ENCODER_ONNX)
    (features,) = session.run(["features"], {"images": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(features, model.encoder(images).numpy(), rtol=1e-4, atol=1e-5)
    refused = hnm("export", evaluated_run, tmp_path / "model", "--hub", tmp_path / "hub")
    assert_refused(refused, 1, "timm has no resnet18 with encoder.norm=instance, stem=small, width=0.125")


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("num_members", [1, 2])
def test_every_aggregator_scores_a_slide_as_predict_does(kind: str, num_members: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    aggregator, features = build_aggregator(kind, 8, num_members).eval(), torch.randn(11, 8).half()
    np.save(tmp_path / file_of_rows(0, 11), features.numpy())
    write_index(tmp_path, np.array([0]), np.array([11]), [file_of_rows(0, 11)])
    bags = Bags(tmp_path, torch.device("cpu"))
    with torch.no_grad():
        score, scores = onnx.OneSlide(aggregator)(features.float())
    expected = slide_scores(predict_bag(aggregator, bags, 0, 11)[:, None])
    np.testing.assert_allclose(score.numpy(), expected[0], rtol=1e-5)
    np.testing.assert_allclose(scores.numpy(), score_patches(aggregator, bags, 0, 11), rtol=1e-5)


def test_results_that_differ_are_refused(tmp_path: Path) -> None:
    ones, twos = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    onnx._write(tmp_path / "a.onnx", ones, torch.ones(1, 2), ["x"], ["y"], {})
    with pytest.raises(InputError, match="onnxruntime's results are off by"):
        onnx.compare(tmp_path / "a.onnx", twos, torch.ones(1, 2))
