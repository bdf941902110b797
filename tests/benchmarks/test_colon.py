"""The device of benchmarks.colon: one for all methods and for all of its folder."""

from pathlib import Path

import pytest
import torch

from benchmarks import end_to_end
from benchmarks.colon import gpu, parse
from hnm.config import Config, dump_config
from tests.skips import HAS_GPU


def test_all_methods_take_the_device_and_a_gpu_one_fold_at_a_time(tmp_path: Path) -> None:
    plan, quick = parse(["--out", str(tmp_path), "--device", "cuda"])
    assert (plan.device, plan.jobs, quick) == ("cuda", 1, False)
    assert "device=cuda" in plan.common("0.05")
    plan, quick = parse(["--out", str(tmp_path), "--device", "cuda", "--jobs", "3", "--quick"])
    assert (plan.device, plan.jobs, quick) == ("cuda", 3, True)
    plan, _ = parse(["--out", str(tmp_path), "--jobs", "2"])
    assert (plan.device, plan.jobs) == ("cpu", 2)
    assert "device=cpu" in plan.common("natural")


def test_a_folder_is_of_one_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "natural" / "hnm").mkdir(parents=True)
    (tmp_path / "natural" / "hnm" / "config.yaml").write_text(dump_config(Config(device="cuda")))
    assert parse(["--out", str(tmp_path), "--device", "cuda"])[0].device == "cuda"
    for words, message in {
        ("--rates", "0.05"): "was begun with --device cuda, not cpu",
        ("--device", "cuda", "device=cpu"): "device=cpu: end-to-end training would not follow",
    }.items():
        with pytest.raises(SystemExit) as stopped:
            parse([*words, "--out", str(tmp_path)])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason=HAS_GPU)
def test_without_a_gpu_cuda_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="torch finds no GPU here"):
        gpu("cuda")
    monkeypatch.setattr("sys.argv", ["end_to_end", "no-crossval", "no-out", "--steps", "1", "--device", "cuda"])
    with pytest.raises(SystemExit):
        end_to_end.main()
    assert "--device cuda: torch finds no GPU here" in capsys.readouterr().err
