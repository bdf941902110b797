"""How exactly torch computes is set for a run and put back; compiled code lies where nobody else may write."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from hnm.aggregator.dsmil import DSMIL, pack
from hnm.config import Config, flatten, load_config
from hnm.engine.engine import EngineConfig
from hnm.engine.numerics import numerics, numerics_in_words, use_local_compile_cache
from launch.process.distributed import choose_device
from launch.process.run_directory import _digest
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.reading.reader import PatchReader


def switches() -> tuple[object, ...]:
    return (
        torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory,
    )  # fmt: skip


def test_tf32_and_determinism_are_choices_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = switches()
    with numerics(EngineConfig()):
        assert switches()[:4] == ("highest", False, False, False)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with numerics(EngineConfig(precision="tf32", deterministic=True)):
        assert switches()[:4] == ("high", True, True, True)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert switches() == before
    assert numerics_in_words(EngineConfig(), torch.device("cpu")) is None


def test_the_aggregator_has_only_operations_that_can_be_deterministic() -> None:
    """torch names the others; and the bits are those of the usual algorithms."""
    bags = [torch.randn(size, 8, generator=torch.Generator().manual_seed(size)) for size in (3, 5)]
    gradients = []
    for deterministic in (False, True):
        torch.manual_seed(0)
        model = DSMIL(8)
        with numerics(EngineConfig(deterministic=deterministic)):
            prediction = model(pack(bags))
            (prediction.bag_logits.sum() + prediction.instance_logits.square().sum()).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_checkpoints_of_before_do_not_know_the_new_setting(tmp_path: Path) -> None:
    changed = Config.model_validate({"engine": {"deterministic": True}})
    assert _digest(changed, ("",)) == _digest(Config(), ("",))
    assert "engine.deterministic" in flatten(Config().model_dump())


def test_a_cache_of_compiled_code_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    private = use_local_compile_cache(3)
    assert private == tmp_path / f"hnm-compiled-{os.getuid()}" / "rank-3"
    assert os.environ["TRITON_CACHE_DIR"] == str(private / "triton")
    assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700
    assert use_local_compile_cache(3) is None  # what is set stays
    monkeypatch.delenv("TRITON_CACHE_DIR")
    private.parent.chmod(0o777)  # anybody could put code there
    other = use_local_compile_cache(0)
    assert other is not None
    assert other.parent != private.parent
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(private / "inductor")


def test_cuda_without_a_gpu_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    message = r"device is cuda, but torch .* sees no GPU on .* \(CUDA_VISIBLE_DEVICES='7'\)\. Set device="
    with pytest.raises(InputError, match=message):
        choose_device("cuda")
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")


def test_a_run_on_the_cpu_of_a_gpu_machine_pins_nothing(tiny_cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # pinning would fail here, for there is no driver
    with PatchReader(Cohort.open(tiny_cohort), load_config().reader) as reader:
        ((ids, images),) = reader.batches([np.arange(3)])
    assert len(ids) == len(images) == 3
    assert not torch.cuda.is_initialized()
